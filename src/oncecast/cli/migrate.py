"""The command `migrate`: create or update the group's schema in PostgreSQL, or print the SQL for it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oncecast.cli import output
from oncecast.core.errors import StartError, Unavailable

Text = Annotated[str | None, Parameter(show_default=False)]


def migrate(
    target: Annotated[str | None, Parameter(name="APP", show_default=False)] = None,
    /,
    *,
    app_dir: Path = Path(),
    dry_run: bool = False,
    grant_to: Text = None,
    database_url: Text = None,
    listener_group: Text = None,
) -> None:
    """Update the schema of a group. A listener does this at its start if its role may.

    `--dry-run` changes nothing and prints the SQL, for an administrator to run with psql. The SQL ends with the
    grants that the role of DATABASE_URL needs to run listeners.

    Parameters
    ----------
    target
        The application, such as shop:app, whose name is that of the group.
    app_dir
        The folder of APP's module, unless it is installed.
    dry_run
        Print the SQL instead of running it.
    grant_to
        The role of the listeners, if it is not the one of DATABASE_URL.
    database_url
        The URL of PostgreSQL (14 or newer). [DATABASE_URL, postgres://localhost/oncecast]
    listener_group
        The name of the group and of its schema. [LISTENER_GROUP, the application's name]
    """
    from oncecast.app.loading import load_app
    from oncecast.assembly import migrate_database, migration_script
    from oncecast.config import ListenerConfig, load

    defaults = {"LISTENER_GROUP": load_app(target, app_dir.resolve()).name}
    flags = {"database_url": database_url, "listener_group": listener_group}
    config = load(ListenerConfig, {**defaults, **os.environ}, flags)
    try:
        if dry_run:
            sys.stdout.write(asyncio.run(migration_script(config, grant_to=grant_to)))
        else:
            _tell(asyncio.run(migrate_database(config, grant_to=grant_to)), config.listener_group, grant_to)
    except Unavailable as error:
        raise StartError(str(error) if "DATABASE_URL" in str(error) else f"{error}; check DATABASE_URL") from error


def _tell(applied: Sequence[str], schema: str, grant_to: str | None) -> None:
    for name in applied:
        output.line(f"Applied {name}.")
    output.line(f"The schema {schema} is up to date." + (f" {grant_to} may run listeners." if grant_to else ""))
