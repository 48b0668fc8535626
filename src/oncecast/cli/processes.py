"""The commands `producer` and `listener`: one process each."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from oncecast.core.errors import ConfigError

Text = Annotated[str | None, Parameter(show_default=False)]


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
