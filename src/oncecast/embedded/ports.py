"""Ports: free ones for servers that nobody knows by number, and a clear word where a wanted one is in use."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from oncecast.core.errors import StartError

LOOPBACK = "127.0.0.1"
PORT_MAX = 65_536


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def wanted_ports(first: int, count: int, option: str) -> list[int]:
    """`count` ports from `first` on, or any free ones for 0; raises StartError naming the port and `option`."""
    if not first:
        return [free_port() for _ in range(count)]
    if not 0 < first <= PORT_MAX - count:
        raise StartError(f"{option}: {first} will not do; it takes a port from 1 to {PORT_MAX - count}, or 0 for any")
    ports = list(range(first, first + count))
    for port in ports:
        if not is_free(port):
            raise StartError(f"port {port} is in use; choose another with {option}")
    return ports


def remembered_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """A free port for each of `names`: the one of last time if it still is; what is chosen is written to `file`."""
    try:
        before = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        before = {}
    ports = {
        name: before[name] if is_free(before.get(name, 0)) and before.get(name) else free_port() for name in names
    }
    file.write_bytes(msgspec.json.encode(ports))
    return ports
