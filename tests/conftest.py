"""Fixtures for all tests; the servers are real ones, begun at their first use."""

import pytest
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

MEASURED = ("tests/unit/", "tests/conformance/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure no tests of whole processes, which coverage does not see, and no simulation, which it slows down."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if not item.nodeid.startswith(MEASURED):
                item.add_marker("no_cover")
