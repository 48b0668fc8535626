"""Start and supervise the heartbeat process, which works while users' code blocks the event loop or interpreter."""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oncecast import forks

PROGRAM = Path(__file__).with_name("heartbeat.py")
END_S = 2.0


class Pulse:
    """Runs the process that changes the counter `key` in Redis, at the address in redis-py's `connection_options`."""

    def __init__(self, connection_options: Mapping[str, Any], *, is_tls: bool, key: str, ttl_ms: int) -> None:
        self._options = connection_options
        self._is_tls = is_tls
        self._key = key
        self._ttl_ms = ttl_ms
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start the process if it does not run. If that fails, only the event loop sends heartbeats."""
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None:
            with contextlib.suppress(OSError):
                self._process = self._start()

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-I", "-S", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C and Ctrl-Z are for the listener
        )
        if process.stdin is not None:
            forks.silence_in_children(process.stdin)
            with contextlib.suppress(OSError):  # it has ended already: the next heartbeat starts another
                process.stdin.write(marshal.dumps(self._job()))
                process.stdin.flush()
        return process

    def _job(self) -> dict[str, Any]:
        options = self._options
        names = ("keyfile", "certfile", "ca_certs", "ca_path", "ca_data", "check_hostname", "password")
        tls = {name: options.get(f"ssl_{name}") for name in names}
        tls["check_hostname"] = options.get("ssl_check_hostname", True)
        tls["cert_reqs"] = str(options.get("ssl_cert_reqs") or "required").lower()
        return {
            "parent": os.getpid(),
            "key": self._key,
            "ttl_ms": self._ttl_ms,
            "host": options.get("host", "localhost"),
            "port": int(options.get("port", 6379)),
            "path": options.get("path"),
            "username": options.get("username"),
            "password": options.get("password"),
            "db": int(options.get("db") or 0),
            "tls": tls if self._is_tls else None,
        }
