"""The words and the decisions of Oncecast: no I/O, no clock, no event loop."""
