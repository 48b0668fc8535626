"""A whole system on one machine: PostgreSQL, Valkey, producers and listeners, each in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from types import TracebackType
from typing import Self

import httpx2
import msgspec

from oncecast.core.errors import StartError
from oncecast.embedded.control import Command, serve_control
from oncecast.embedded.guarded import Guard
from oncecast.embedded.lock import FolderLock
from oncecast.embedded.ports import LOOPBACK, remembered_ports, wanted_ports
from oncecast.embedded.postgres import EmbeddedPostgres
from oncecast.embedded.process import Launch, Process
from oncecast.embedded.valkey import EmbeddedValkey

LISTENERS_MAX = len(ascii_lowercase)
CLEARING_DEADLINE_S = 15.0
CLEARING_INTERVAL_S = 0.05
CLIENT_LIMITS = httpx2.Limits(max_connections=20, max_keepalive_connections=0)
LISTENER_CONNECTIONS = 16
"""Connections of one listener to PostgreSQL by default, see DB_POOL."""
OTHER_CONNECTIONS = 20
"""Connections for users and monitoring."""


class Stack:
    """Runs while it is entered: `async with Stack(Path(".oncecast")) as stack: …`

    The system chooses ports given as 0. `app` is the listeners' application, found in `app_dir`. `environment` is
    added
    to that of producers and listeners; `detour(name)` returns more variables for one of them at each start, such as
    other addresses. `say` is called with a message when a process ends without a request. The folder of a `temporary`
    stack is removed at the end. Raises StartError; then no process is left running.
    """

    def __init__(
        self,
        data: Path,
        *,
        listeners: int = 2,
        producers: int = 1,
        producer_port: int = 8080,
        listener_port: int = 3001,
        app: str | None = None,
        app_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        detour: Callable[[str], Awaitable[Mapping[str, str]]] | None = None,
        temporary: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if not (1 <= listeners <= LISTENERS_MAX and 1 <= producers <= LISTENERS_MAX):
            raise StartError(f"there can be 1 to {LISTENERS_MAX} listeners, and as many producers")
        self.data = data.resolve()
        self._was_there = os.path.isdir(self.data)
        self.processes: dict[str, Process] = {}
        self.listeners = [f"listener-{letter}" for letter in ascii_lowercase[:listeners]]
        letters = ascii_lowercase[:producers]
        self.producers = ["producer"] if producers == 1 else [f"producer-{letter}" for letter in letters]
        self._producer_port = producer_port
        self._listener_port = listener_port
        self._app = app
        self._app_dir = app_dir or Path.cwd()
        self._environment = dict(environment or {})
        self._detour = detour
        self._temporary = temporary
        self._say = say or (lambda _line: None)
        self._listener_token = secrets.token_hex(16)
        """The token between the stack's own processes, if readers or operators need one."""
        self._exit = contextlib.AsyncExitStack()

    # --- folders and addresses ------------------------------------------------------------------------------------

    def folder(self, name: str) -> Path:
        """The working folder of a process."""
        return self.data / name

    @property
    def database_url(self) -> str:
        """With its password: for tests and tools, never for output."""
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """With its password: for tests and tools, never for output."""
        return self._valkey.url

    @property
    def publish_urls(self) -> list[str]:
        """The URLs of all producers."""
        return [self.processes[name].address for name in self.producers]

    @property
    def publish_url(self) -> str:
        """The URL of the first producer."""
        return self.publish_urls[0]

    @property
    def listener_urls(self) -> dict[str, str]:
        """The URLs of all listeners, by name."""
        return {name: self.processes[name].address for name in self.listeners}

    # --- start and stop ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        """End all processes, in a separate task. A cancellation ends them at once, and is raised afterwards."""
        closing = asyncio.create_task(self._exit.aclose())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                cancelled = error
                for process in self.processes.values():
                    process.abort()
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def _start(self) -> None:
        if self._was_there:  # report a stack that already runs in this folder rather than its used ports
            await self._hold_folder()
        producer_ports = wanted_ports(self._producer_port, len(self.producers), "--port")
        listener_ports = wanted_ports(self._listener_port, len(self.listeners), "--listener-port", producer_ports)
        if not self._was_there:
            await self._hold_folder()
        self._http = await self._exit.enter_async_context(
            httpx2.AsyncClient(trust_env=False, timeout=2.0, limits=CLIENT_LIMITS)
        )
        self._exit.push_async_callback(self._stop_all)
        self._add_servers({*producer_ports, *listener_ports})
        for name, port in zip(self.producers, producer_ports, strict=True):
            self._add_service(name, port, ["producer"], {"JOURNAL_PATH": "journal.db"})
        for name, port in zip(self.listeners, listener_ports, strict=True):
            self._add_service(name, port, self._listener_command(), self._listener_environment())
        control = await serve_control(self.data, self._obey)
        self._exit.callback(control.close)
        await self._start_all()

    async def _start_all(self) -> None:
        """Start all processes at once; only the listeners wait for PostgreSQL."""
        failed: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for name in (*self.producers, "valkey"):
                    group.create_task(self.start(name))
                await self.start("postgres")
                for name in self.listeners:
                    group.create_task(self.start(name))
        except* StartError as errors:
            failed = errors.exceptions[0]
        if failed is not None:  # not above: some Python versions wrap what is raised there in a group
            raise failed

    async def _stop_all(self) -> None:
        """Stop clients before their servers, even after an error; then raise the first error."""
        errors: list[BaseException] = []
        for names in (self.listeners, self.producers, ["valkey", "postgres"]):
            errors += await self._stop_each([name for name in names if name in self.processes])
        if errors:
            raise errors[0]

    async def _stop_each(self, names: Sequence[str]) -> list[BaseException]:
        """Stop these at the same time; return the errors."""
        outcomes = await asyncio.gather(*(self.stop(name) for name in names), return_exceptions=True)
        return [outcome for outcome in outcomes if isinstance(outcome, BaseException)]

    async def _hold_folder(self) -> None:
        """Lock the folder, and start the guard, which holds the lock until it has cleaned up."""
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._exit.enter_context(FolderLock(self.data / "lock"))
            if not lock.take():
                raise StartError(f"another stack runs in {self.data}; --data names another folder")
            with FolderLock(self.data / "guard.lock") as clearing:
                await self._wait_for_guard(clearing)
                self._guard = Guard(descriptors=(clearing.descriptor,))
        except OSError as error:
            raise StartError(f"cannot use the folder {self.data}: {error.strerror}") from None
        if self._temporary:
            self._exit.callback(shutil.rmtree, self.data, ignore_errors=True)
            self._guard.remove_at_end(self.data)
        self._exit.callback(self._guard.close)

    async def _wait_for_guard(self, clearing: FolderLock) -> None:
        """Wait until the guard of a killed stack in this folder has cleaned up."""
        began_s = time.monotonic()
        while not clearing.take():
            if time.monotonic() - began_s > CLEARING_DEADLINE_S:
                raise StartError(f"processes of an earlier stack in {self.data} do not end")
            await asyncio.sleep(CLEARING_INTERVAL_S)

    # --- processes -----------------------------------------------------------------------------------------

    def _add_servers(self, taken: set[int]) -> None:
        ports = remembered_ports(self.data / "ports.json", ("postgres", "valkey"), taken)
        url_file = self.data / "postgres.url"
        connections = max(100, len(self.listeners) * LISTENER_CONNECTIONS + OTHER_CONNECTIONS)
        self._postgres = EmbeddedPostgres(
            self.data / "postgres",
            ports["postgres"],
            url_file,
            self._guard,
            settings={"max_connections": f"{connections}"},
        )
        self._exit.callback(self._postgres.close)
        self._valkey = EmbeddedValkey(self.data / "valkey", ports["valkey"], self.data / "redis.url")
        for name, server in (("postgres", self._postgres), ("valkey", self._valkey)):
            address = f"{LOOPBACK}:{server.port}"
            self.processes[name] = Process(
                name, address, server.launch, server.is_ready, self._changed, self._guard.pipe
            )

    def _add_service(self, name: str, port: int, command: list[str], environment: Mapping[str, str]) -> None:
        address = f"http://{LOOPBACK}:{port}"

        async def prepare() -> Launch:
            own = {"INSTANCE_ID": name, "PORT": str(port), "HOST": LOOPBACK, "PYTHONUNBUFFERED": "1", **environment}
            if self._detour is not None:
                own |= await self._detour(name)
            # All listeners of a stack start together with one application: it replaces the group's application.
            given = {"FORCE_HANDLERS": "1", **os.environ, **self._environment}
            if {"SUBSCRIBE_TOKEN", "ADMIN_TOKEN"} & given.keys():
                given = {"LISTENER_TOKENS": self._listener_token, "LISTENER_TOKEN": self._listener_token, **given}
            for variable in own:  # the user's DATABASE_URL would override the stack's DATABASE_URL_FILE
                given.pop(variable.removesuffix("_FILE"), None)
            return Launch(
                command=[sys.executable, "-m", "oncecast", *command],
                folder=self.folder(name),
                environment={**given, **own},
            )

        # A producer with a full journal becomes ready only when the listeners have caught up.
        question = f"{address}/livez" if name in self.producers else f"{address}/readyz"
        self.processes[name] = Process(
            name, address, prepare, lambda: self._answers(question), self._changed, self._guard.pipe
        )

    def _listener_command(self) -> list[str]:
        return ["listener", *([self._app, "--app-dir", str(self._app_dir.resolve())] if self._app else [])]

    def _listener_environment(self) -> dict[str, str]:
        return {
            "WS_URL": ",".join(url.replace("http", "ws", 1) for url in self.publish_urls),
            "DATABASE_URL_FILE": str(self._postgres.near_url_file),
            "REDIS_URL_FILE": str(self.data / "redis.url"),
        }

    async def _answers(self, question: str) -> bool:
        try:
            answer = await self._http.get(question)
            # A listener on standby counts as started: it reports its reason, and works when that has changed.
            return answer.status_code == httpx2.codes.OK or bool(answer.json().get("on_standby"))
        except (httpx2.HTTPError, ValueError):
            return False

    def process(self, name: str) -> Process:
        """Return the process `name`. Raises StartError with the existing names."""
        if name not in self.processes:
            raise StartError(f"there is no process {name!r}; there are {', '.join(self.processes)}")
        return self.processes[name]

    async def begin(self, name: str) -> None:
        """Start a process without waiting."""
        await self.process(name).start()

    async def start(self, name: str) -> None:
        """Start a process and wait until it is ready."""
        await self.begin(name)
        await self.process(name).wait_ready()

    async def stop(self, name: str) -> None:
        """Stop a process in order (its stop signal)."""
        await self.process(name).stop()

    async def restart_listeners(self) -> None:
        """Drain and restart the running listeners. Raises StartError if one does not start.

        All of them stop first: one with the old application would register that for the group again.
        """
        names = [name for name in self.listeners if self.processes[name].wanted]
        if errors := await self._stop_each(names):
            raise errors[0]
        for outcome in await asyncio.gather(*(self.start(name) for name in names), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def kill(self, name: str) -> None:
        """Send SIGKILL to a process and wait for its end."""
        await self.process(name).kill()

    def pause(self, name: str) -> None:
        """Send SIGSTOP to a process."""
        self.process(name).pause()

    def resume(self, name: str) -> None:
        """Send SIGCONT to a process."""
        self.process(name).resume()

    async def _obey(self, command: Command) -> None:
        act = {"start": self.start, "stop": self.stop, "kill": self.kill}.get(command.verb)
        if act is None:
            raise StartError(f"{command.verb!r} is no command")
        await act(command.name)

    def _changed(self, process: Process) -> None:
        """Update the guard and the state file; report an end that was not requested."""
        self._guard.update(process)
        if process.has_failed:
            self._say(
                f"{process.name} ended with status {process.returncode}; start it with: oncecast start {process.name}"
            )
        self._write_state()

    def state(self) -> list[dict[str, object]]:
        """Return name, pid, address and state of each process."""
        return [
            {"name": p.name, "pid": p.pid, "address": p.address, "state": p.state} for p in self.processes.values()
        ]

    def _write_state(self) -> None:
        """Write the state for `oncecast status`; a full disk must not end healthy processes."""
        file = self.data / "stack.json"
        unfinished = file.with_name("stack.json.new")
        with contextlib.suppress(OSError):
            unfinished.write_bytes(msgspec.json.encode(self.state()))
            unfinished.rename(file)
