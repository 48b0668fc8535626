"""Benchmarks of a whole stack on one machine, each beside what the same work costs without Oncecast."""
