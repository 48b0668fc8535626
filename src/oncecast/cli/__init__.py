"""The command `oncecast`: thin functions over the assembly; errors are one line on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine
from errno import EDQUOT, ENOSPC
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.core.errors import ConfigError, OncecastError

app = cyclopts.App(
    name="oncecast",
    help="Broadcast to many, processed once, whatever fails.",
    version=version("oncecast"),
    help_epilogue="Try it: `oncecast up`, then `oncecast send events.ndjson` in another terminal.",
    result_action="return_value",
)

Text = Annotated[str | None, Parameter(show_default=False)]


@app.command(group="Processes")
def producer(
    *,
    port: Text = None,
    host: Text = None,
    instance_id: Text = None,
    journal_path: Text = None,
    event_source: Text = None,
    log_format: Text = None,
    log_level: Text = None,
) -> None:
    """Run a producer: accept events over HTTP, WebSocket and a page, and broadcast them.

    Every flag is also an environment variable: `--journal-path` is JOURNAL_PATH. See docs/reference/settings.md.

    Parameters
    ----------
    port
        The port of the page, HTTP and WebSocket. [PORT, 8080]
    host
        The address to bind. [HOST, 127.0.0.1]
    instance_id
        The name of this process in logs and lists. [INSTANCE_ID, the host's name]
    journal_path
        The file of the journal, created if it does not exist. [JOURNAL_PATH, journal.db]
    event_source
        The CloudEvents source of bare events. [EVENT_SOURCE, /oncecast]
    log_format
        console, or json for one JSON object per line. [LOG_FORMAT, console]
    log_level
        The lowest severity that is logged: debug, info, warning or error. [LOG_LEVEL, info]
    """
    flags = dict(locals())
    from oncecast.assembly import run_producer
    from oncecast.config import ProducerConfig, load

    _run(run_producer(load(ProducerConfig, os.environ, flags)))


@app.command(group="Processes")
def listener(
    target: Annotated[str | None, Parameter(name="APP", show_default=False)] = None,
    /,
    *,
    app_dir: Path = Path(),
    reload: bool = False,
    port: Text = None,
    host: Text = None,
    instance_id: Text = None,
    ws_url: Text = None,
    redis_url: Text = None,
    database_url: Text = None,
    listener_group: Text = None,
    log_format: Text = None,
    log_level: Text = None,
) -> None:
    """Run a listener: run the handlers of APP (`module:name`) and store every event exactly once.

    Without APP, events are only stored. Every flag is also an environment variable: `--ws-url` is WS_URL.
    See docs/reference/settings.md. Prefer `DATABASE_URL_FILE` and `REDIS_URL_FILE` for secrets.

    Parameters
    ----------
    target
        The application, such as shop:app.
    app_dir
        The folder of APP's module, unless it is installed.
    reload
        Restart when a .py file in that folder changes; for development. Implies FORCE_HANDLERS=1.
    port
        The port of the HTTP API, health and metrics. [PORT, 3001]
    host
        The address to bind. [HOST, 127.0.0.1]
    instance_id
        The name of this process in logs and lists. [INSTANCE_ID, the host's name]
    ws_url
        The URLs of the producers, comma-separated. [WS_URL, ws://localhost:8080]
    redis_url
        The URL of Redis (7 or newer) or Valkey. [REDIS_URL, redis://localhost:6379]
    database_url
        The URL of PostgreSQL (14 or newer). [DATABASE_URL, postgres://localhost/oncecast]
    listener_group
        The name of the group and of its schema. [LISTENER_GROUP, the application's name]
    log_format
        console, or json for one JSON object per line. [LOG_FORMAT, console]
    log_level
        The lowest severity that is logged: debug, info, warning or error. [LOG_LEVEL, info]
    """
    flags = {name: value for name, value in locals().items() if name not in ("target", "app_dir", "reload")}
    from oncecast.config import Common, ListenerConfig, load

    if reload:
        load(ListenerConfig, os.environ, flags)  # no change of code fixes a wrong setting: exit
        return _reload(target, app_dir.resolve(), flags)
    from oncecast.app.loading import load_app
    from oncecast.assembly import log_of, run_listener

    with contextlib.suppress(ConfigError):  # reported below, together with the other settings
        log_of(load(Common, os.environ, flags))  # the application may log while it is imported
    loaded = load_app(target, app_dir.resolve())
    defaults = {"LISTENER_GROUP": loaded.name}
    return _run(run_listener(load(ListenerConfig, {**defaults, **os.environ}, flags), loaded))


def _reload(target: str | None, app_dir: Path, flags: dict[str, Any]) -> None:
    from oncecast.cli.reload import run_reloading
    from oncecast.cli.stack.commands import until_signal

    if target is None:
        raise ConfigError("--reload needs an application whose code may change, such as shop:app")
    asyncio.run(until_signal(run_reloading(target, app_dir, flags)))


def _run(main: Coroutine[Any, Any, None]) -> None:
    from oncecast.cli.event_loop import run

    run(main)


@cache
def _register() -> None:
    from oncecast.cli import chaos, conflicts, journal_file, migrate, operate
    from oncecast.cli.dead_letters import show as dead_letters
    from oncecast.cli.events import publish
    from oncecast.cli.events import retrying as events
    from oncecast.cli.stack import commands as stack
    from oncecast.cli.stack import sql, status

    journal_file.register(operate.journal)
    for command in (stack.up, stack.stop, stack.start, stack.kill, stack.demo):
        app.command(command, group="The embedded stack")
    app.command(status.status, group="The embedded stack")
    app.command(sql.sql, group="The embedded stack")
    app.command(chaos.chaos, group="The embedded stack")
    for command_of_events in (publish.send, publish.tail):
        app.command(command_of_events, group="Events")
    app.command(events.app)
    app.command(dead_letters.app)
    app.command(conflicts.app)
    app.command(operate.groups)
    app.command(operate.journal)
    app.command(operate.prune, group="Operations")
    app.command(migrate.migrate, group="Operations")


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and status 1."""
    _register()
    _open_closed_streams()
    output.escape_what_streams_lack()
    status = 0  # not sys.exit() below: some Python versions wrap what an except* raises in a group
    try:
        sys.exit(app())
    except* OncecastError as errors:
        for error in _leaves(errors):
            for line in str(error).splitlines():
                output.error(line)
        status = 1
    except* BrokenPipeError:
        _write_no_more()  # the reader of the output, such as `head`, has closed the pipe
    except* OSError as errors:
        full = [str(error) for error in _leaves(errors) if getattr(error, "errno", None) in (ENOSPC, EDQUOT)]
        if not full:
            raise
        _write_no_more()
        output.error(f"what this command writes has no room: {full[0]}")
        status = 1
    except* KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that a shell has closed (`>&-`, `<&-`).

    Otherwise a file that is opened later gets the number of that stream, and prints go into the file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open() returns the lowest free descriptor
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _write_no_more() -> None:
    """Keep Python from flushing buffered output at exit, which would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
