"""A program that sends the heartbeat of a listener while the listener lives and is not stopped. Do not import it.

`pulse` starts it with `python -I -S`, which keeps it small, and writes its settings to its standard input. The input
stays open until the listener ends. Users' code, which may hold the listener's interpreter for a minute, does not
block this process. See decision 028.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
import signal
import sys
import time
from typing import Any

INTERVAL_S = 1.0
DEADLINE_S = 1.0
STDIN = 0


def main() -> None:
    """Send a heartbeat every second until the listener ends, whatever Redis answers."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a draining listener still needs its heartbeat
    job: dict[str, Any] = marshal.load(sys.stdin.buffer)  # noqa: S302 (our parent wrote it)
    connection = None
    while os.getppid() == job["parent"]:
        if not is_stopped(job["parent"]):
            try:
                connection = connection or connect(job)
                ask(connection, "SET", job["key"], time.monotonic_ns(), "PX", job["ttl_ms"])
            except (OSError, ValueError):
                if connection is not None:
                    connection.close()
                connection = None
        if select.select([STDIN], [], [], INTERVAL_S)[0]:
            return


def is_stopped(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped the process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            state = stat.read().rpartition(b") ")[2][:1]
    except OSError:  # there is no /proc, or the process is gone
        state = state_from_ps(pid)
    return state in (b"T", b"t")


def state_from_ps(pid: int) -> bytes:
    """Return the first letter of the process state, on systems without /proc."""
    reading, writing = os.pipe()
    command = ["ps", "-o", "state=", "-p", str(pid)]
    try:
        child = os.posix_spawnp("ps", command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
        os.close(writing)
        writing = -1
        state = os.read(reading, 10)[:1]
        os.waitpid(child, 0)
    except OSError:
        return b""
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    return state


def connect(job: dict[str, Any]) -> Any:
    """Return an authenticated connection to Redis, with its database selected. Raises OSError."""
    error: OSError = ConnectionError("the name has no address")
    for family, address in server_addresses(job):
        connection: Any = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            connection.settimeout(DEADLINE_S)
            connection.connect(address)
            if job["tls"] is not None:
                connection = in_tls(connection, job)
            if job["password"]:
                ask(connection, "AUTH", *([job["username"]] if job["username"] else []), job["password"])
            if job["db"]:
                ask(connection, "SELECT", job["db"])
        except OSError as failed:
            connection.close()
            error = failed
        else:
            return connection
    raise error


def server_addresses(job: dict[str, Any]) -> list[tuple[int, Any]]:
    """Return the addresses of Redis to try."""
    if job["path"]:
        return [(_socket.AF_UNIX, job["path"])]
    found = _socket.getaddrinfo(job["host"], job["port"], 0, _socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def in_tls(connection: Any, job: dict[str, Any]) -> Any:
    """Return the connection with TLS, as redis-py would set it up for the same URL."""
    import socket
    import ssl

    options = job["tls"]
    context = ssl.create_default_context()
    verify = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
    mode = verify[options["cert_reqs"]]
    context.check_hostname = bool(options["check_hostname"]) and mode != ssl.CERT_NONE
    context.verify_mode = mode
    if options["certfile"] or options["keyfile"]:
        context.load_cert_chain(options["certfile"], options["keyfile"], options["password"])
    if options["ca_certs"] or options["ca_path"] or options["ca_data"]:
        context.load_verify_locations(options["ca_certs"], options["ca_path"], options["ca_data"])
    plain = socket.socket(fileno=connection.detach())
    plain.settimeout(DEADLINE_S)
    return context.wrap_socket(plain, server_hostname=job["host"])


def ask(connection: Any, *words: str | int) -> None:
    """Send a command whose answer is one line. Raises OSError for an error, or if no answer comes."""
    encoded = [str(word).encode() for word in words]
    connection.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
    answer = b""
    while not answer.endswith(b"\r\n"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionError("Redis has closed the connection")
        answer += part
    if not answer.startswith(b"+"):
        raise ConnectionError(answer.decode("utf-8", "replace"))


if __name__ == "__main__":
    main()
