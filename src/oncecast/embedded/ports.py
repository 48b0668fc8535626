"""Choose free ports for servers, and report a requested port that is in use."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from oncecast.core.errors import StartError

LOOPBACK = "127.0.0.1"
PORT_MAX = 65_536
QUIET_PORTS = range(20_000, 32_000)
"""Outside the ephemeral ports of Linux and macOS, so that a server that restarts finds its port free."""


def free_port() -> int:
    """Return a port that is free now."""
    return free_ports(1)[0]


def free_ports(count: int, avoid: Collection[int] = ()) -> list[int]:
    """Return `count` free ports of QUIET_PORTS, none in `avoid`. Raises StartError if there are too few."""
    candidates = itertools.islice(_next_ports, len(QUIET_PORTS))
    found = list(itertools.islice((port for port in candidates if port not in avoid and is_free(port)), count))
    if len(found) < count:
        raise StartError(f"no free port from {QUIET_PORTS.start} to {QUIET_PORTS.stop - 1}")
    return found


def _ports_in_turn() -> Iterator[int]:
    # A port comes again only after all others: its server may not have started yet, or may be restarting.
    # The system's randomness: processes that seed Python's generator alike still get different ports.
    first = random.SystemRandom().randrange(len(QUIET_PORTS))
    return itertools.cycle((*QUIET_PORTS[first:], *QUIET_PORTS[:first]))


_next_ports = _ports_in_turn()


def is_free(port: int) -> bool:
    """Return whether a server could bind `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def wanted_ports(first: int, count: int, option: str, avoid: Collection[int] = ()) -> list[int]:
    """Return `count` ports from `first` on, or free ones for 0. Raises StartError with the used port and `option`.

    Ports in `avoid` are reserved, although nobody listens there yet.
    """
    if not first:
        return free_ports(count, avoid)
    if not 0 < first <= PORT_MAX - count:
        raise StartError(
            f"invalid value for {option}: {first} (expected a port from 1 to {PORT_MAX - count}, or 0 for any)"
        )
    ports = list(range(first, first + count))
    for port in ports:
        if port in avoid or not is_free(port):
            raise StartError(f"port {port} is in use; choose another with {option}")
    return ports


def remembered_ports(file: Path, names: Sequence[str], avoid: Collection[int] = ()) -> dict[str, int]:
    """Return a free port for each of `names`; the port of the last time, which `file` stores, if it is still free.

    None of them is in `avoid`.
    """
    try:
        before = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        before = {}
    kept = {name: before[name] for name in names if name in before and _will_do(before[name], avoid)}
    new = iter(free_ports(len(names) - len(kept), {*avoid, *kept.values()}))
    ports = {name: kept[name] if name in kept else next(new) for name in names}
    file.write_bytes(msgspec.json.encode(ports))
    return ports


def _will_do(port: int, avoid: Collection[int]) -> bool:
    return 0 < port < PORT_MAX and port not in avoid and is_free(port)
