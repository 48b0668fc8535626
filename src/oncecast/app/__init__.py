"""Applications: handlers, their parameters and how they run."""
