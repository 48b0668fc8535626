"""Fixtures for all tests; the servers are real ones, begun at their first use."""

from hypothesis import settings

pytest_plugins = [
    "tests.support.brokers",
    "pytest_oncecast",  # as its entry point is called: where Oncecast is installed, it is loaded already
    "tests.support.browsers",
    "tests.support.servers",
    "tests.support.stacks",
    "tests.support.terminals",
    "tests.support.counting_stack",
    "tests.support.event_stores",
]

settings.register_profile("oncecast", deadline=None)  # how fast the machine is just now is nothing that a test holds
settings.load_profile("oncecast")
