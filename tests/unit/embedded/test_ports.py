"""Ports are free, different, and those of last time; a wanted one that is taken is named."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

import pytest

from oncecast.core.errors import StartError
from oncecast.embedded.ports import QUIET_PORTS, free_ports, is_free, remembered_ports, wanted_ports


def test_free_ports_are_different_and_none_that_is_to_be_avoided() -> None:
    first = free_ports(50)
    assert len(set(first)) == 50
    assert not set(free_ports(50, first)) & set(first)


def test_a_wanted_port_that_is_in_use_is_named_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(StartError, match=f"^port {port} is in use; choose another with --port$"):
            wanted_ports(port, 1, "--port")


def test_a_wanted_port_that_is_promised_to_somebody_else_is_in_use() -> None:
    (port,) = free_ports(1)
    with pytest.raises(StartError, match="--listener-port"):
        wanted_ports(port, 1, "--listener-port", [port])


@pytest.mark.parametrize("first", [-1, 65_536, 65_535])
def test_a_range_that_leaves_the_ports_there_are_is_refused(first: int) -> None:
    with pytest.raises(StartError, match="--port"):
        wanted_ports(first, 2, "--port")


def test_ports_are_those_of_last_time(tmp_path: Path) -> None:
    before = remembered_ports(tmp_path / "ports.json", ("postgres", "valkey"))
    assert remembered_ports(tmp_path / "ports.json", ("postgres", "valkey")) == before


def test_a_free_port_is_not_returned_again_soon_because_its_server_may_be_starting() -> None:
    first = free_ports(50)
    assert not set(first) & {port for _ in range(100) for port in free_ports(50)}


def test_a_chosen_port_is_below_every_port_that_the_system_assigns() -> None:
    with contextlib.ExitStack() as held:
        handed_out = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(100)]
        system = {server.getsockname()[1] for server in handed_out}
    assert max(wanted_ports(0, 100, "--port")) < min(system)


def test_processes_with_the_same_random_seed_get_different_free_ports() -> None:
    before, found = random.getstate(), []
    for _ in range(2):
        random.seed(0)
        found.append(free_ports(5))
    random.setstate(before)
    assert found[0] != found[1]


def test_no_free_port_is_a_clear_error() -> None:
    with pytest.raises(StartError, match="no free port from 20000 to 31999"):
        free_ports(1, QUIET_PORTS)


def test_a_remembered_port_that_is_taken_is_left_to_its_new_owner(tmp_path: Path) -> None:
    before = remembered_ports(tmp_path / "ports.json", ("postgres", "valkey"))
    after = remembered_ports(tmp_path / "ports.json", ("postgres", "valkey"), [before["postgres"]])
    assert after["postgres"] != before["postgres"]
    assert after["valkey"] == before["valkey"]


@pytest.mark.parametrize("content", ["", "{", '{"postgres": 70000}', '{"postgres": 0}', '{"postgres": "x"}'])
def test_a_file_that_makes_no_sense_is_as_good_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text(content)
    assert 0 < remembered_ports(tmp_path / "ports.json", ("postgres",))["postgres"] < 65_536
