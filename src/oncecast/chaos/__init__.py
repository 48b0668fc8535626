"""`oncecast chaos`: run a whole system under real faults, and count what was lost or doubled."""
