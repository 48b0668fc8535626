"""`oncecast chaos`: a whole system under real faults, and a judge who counts."""
