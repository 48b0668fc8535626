"""Fixtures for all tests; the servers are real ones, begun at their first use."""

pytest_plugins = [
    "tests.support.brokers",
    "tests.support.browsers",
    "tests.support.servers",
    "tests.support.stacks",
    "tests.support.counting_stack",
]
