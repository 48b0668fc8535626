"""The commands around the embedded stack: `up`, `stop`, `start`, `kill`, and `demo`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.stack.demo import Figures, run_demo
from oncecast.core.errors import ConfigError, StartError

if TYPE_CHECKING:
    from oncecast.embedded import Stack

Data = Annotated[Path, Parameter(help="The folder of the stack, with one folder per process.")]
Json = Annotated[bool | None, Parameter(help="Print JSON; the default if the output is not a terminal.")]
DEFAULT_DATA = Path(".oncecast")


def up(
    *,
    data: Data = DEFAULT_DATA,
    listeners: int = 2,
    producers: int = 1,
    port: int = 8080,
    listener_port: int = 3001,
    app: str | None = None,
    app_dir: Path = Path(),
    reload: bool = False,
    json: Json = None,
) -> None:
    """Run a whole system until Ctrl-C: PostgreSQL, Valkey, producers and listeners.

    The data is kept for the next start. In another terminal, `oncecast stop|start|kill NAME` act on single processes.

    Parameters
    ----------
    listeners
        The number of listeners.
    producers
        The number of producers, each with its own journal.
    port
        The port of the first producer; the others follow. 0 lets the system choose.
    listener_port
        The port of the first listener; the others follow. 0 lets the system choose.
    app
        The application of the listeners, such as shop:app.
    app_dir
        The folder of the application's module, unless it is installed.
    reload
        Restart the listeners when a .py file in that folder changes; for development.
    """
    from oncecast.embedded import Stack

    if reload and app is None:
        raise ConfigError("--reload needs an application whose code may change: --app shop:app")
    as_json = output.wants_json(json)
    stack = Stack(
        data,
        listeners=listeners,
        producers=producers,
        producer_port=port,
        listener_port=listener_port,
        app=app,
        app_dir=app_dir,
        environment={"FORCE_HANDLERS": "1"} if reload else None,
        say=output.note,
    )
    work = (
        _up_reloading(stack, app, app_dir.resolve(), data, as_json=as_json)
        if reload and app
        else _up(stack, data, as_json=as_json)
    )
    asyncio.run(until_signal(work))


async def _up_reloading(stack: Stack, app: str, folder: Path, data: Path, *, as_json: bool) -> None:
    from oncecast.cli.changes import changes_in
    from oncecast.cli.reload import reload_listeners, until_it_loads

    async with changes_in(folder, without=stack.data) as changes:
        await until_it_loads(app, folder, changes)
        reloading = partial(reload_listeners, app, folder, changes, stack.restart_listeners)
        await _up(stack, data, reloading, as_json=as_json)


async def _up(
    stack: Stack, data: Path, meanwhile: Callable[[], Awaitable[object]] | None = None, *, as_json: bool
) -> None:
    async with stack:
        processes = stack.state()
        if as_json:
            for process in processes:
                output.json(process)
        else:
            output.table(
                "", ("name", "pid", "address"), [(p["name"], str(p["pid"]), p["address"]) for p in processes]
            )
            output.line(f"The page: {stack.publish_url.replace('127.0.0.1', 'localhost')}")
            where = "" if data == DEFAULT_DATA else f" --data {data}"
            output.line(f'The data: {data}, and in SQL: oncecast sql{where} "select …"')
            output.line("Ctrl-C ends everything; nothing is lost.")
        await (meanwhile or asyncio.Event().wait)()


def stop(name: str, /, *, data: Data = DEFAULT_DATA) -> None:
    """Stop the process NAME of a running stack (SIGTERM).

    Parameters
    ----------
    name
        The name, as `oncecast up` prints it: postgres, valkey, producer, listener-a, …
    """
    _command("stop", name, data)
    output.line(f"{name} has stopped; 'oncecast start {name}' starts it again.")


def start(name: str, /, *, data: Data = DEFAULT_DATA) -> None:
    """Start the process NAME of a running stack again, and wait until it is ready.

    Parameters
    ----------
    name
        The name, as `oncecast up` prints it: postgres, valkey, producer, listener-a, …
    """
    _command("start", name, data)
    output.line(f"{name} is ready.")


def kill(name: str, /, *, data: Data = DEFAULT_DATA) -> None:
    """Kill the process NAME of a running stack (SIGKILL).

    Parameters
    ----------
    name
        The name, as `oncecast up` prints it: postgres, valkey, producer, listener-a, …
    """
    _command("kill", name, data)
    output.line(f"{name} is killed; 'oncecast start {name}' starts it again.")


def _command(verb: str, name: str, data: Path) -> None:
    from oncecast.embedded.control import Command, send_command

    send_command(data, Command(verb, name))


def demo(
    file: Path,
    /,
    *,
    exit: bool = False,
    rate: int = 50,
    listeners: int = 2,
    port: int = 8080,
    listener_port: int = 3001,
    json: Json = None,
) -> int:
    """Send the events of FILE through a producer and redundant listeners into PostgreSQL, and show it.

    Starts a stack in a temporary folder, sends FILE at --rate, prints a table of results, and runs until Ctrl-C.
    Kill a listener meanwhile, as the demo suggests: no event is lost.

    Parameters
    ----------
    file
        A file of events, one JSON object per line.
    exit
        Exit when all events have ended, with status 0 if every accepted event has exactly one row.
    rate
        Events per second; 0 sends as fast as the producer accepts them.
    listeners
        The number of listeners.
    port
        The port of the producer; 0 lets the system choose.
    listener_port
        The port of the first listener; the others follow. 0 lets the system choose.
    """
    if not file.is_file():
        raise StartError(f"there is no file {str(file)!r}: the demo sends the events of an NDJSON file")
    if rate < 0:
        raise ConfigError(f"invalid value for --rate: {rate} (expected events per second, or 0 for no limit)")
    as_json = output.wants_json(json)
    figures = asyncio.run(_demo(file, rate, listeners, port, listener_port, stay=not exit, as_json=as_json))
    return 0 if figures is not None and figures.is_exact else 1


async def _demo(
    file: Path, rate: int, listeners: int, port: int, listener_port: int, *, stay: bool, as_json: bool
) -> Figures | None:
    """Return the figures, or None if Ctrl-C came first."""
    from oncecast.embedded import Stack

    figures = None

    async def watch(folder: Path) -> None:
        nonlocal figures
        stack = Stack(
            folder,
            listeners=listeners,
            producer_port=port,
            listener_port=listener_port,
            temporary=True,
            say=output.note,
        )
        if not as_json:
            output.note("Starting PostgreSQL, Valkey, a producer and the listeners …")
        async with stack:
            figures = await run_demo(stack, file, rate, as_json=as_json)
            if stay:
                output.note("It runs on; Ctrl-C ends it.")
                await asyncio.Event().wait()

    folder = Path(tempfile.mkdtemp(prefix="oncecast-demo-"))
    try:
        await until_signal(watch(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return figures


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; Ctrl-C or SIGTERM cancels it, a second one ends this process at once (the guard cleans up)."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if task.cancelling():
            os._exit(130)
        if sys.stderr.isatty():
            output.note("Ending…")
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await asyncio.wait((task,))
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if not task.cancelled():
        task.result()
