"""Benchmarks of a whole stack on one machine, each compared with what the same work costs without Oncecast."""
