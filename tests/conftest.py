"""Fixtures for all tests; the servers are real ones, begun at their first use."""

pytest_plugins = [
    "pytest_oncecast",  # as its entry point is called: where Oncecast is installed, it is loaded already
    "tests.support.browsers",
    "tests.support.servers",
    "tests.support.stacks",
    "tests.support.counting_stack",
    "tests.support.event_stores",
]
