"""Check whether the real command line accepts a command, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cyclopts

from oncecast import cli


@cache
def command_line() -> cyclopts.App:
    """Return the command line with all commands."""
    cli._register()
    return cli.app


def check_command(arguments: Sequence[str]) -> None:
    """Raise cyclopts.CycloptsError if `oncecast ARGUMENTS…` is not a valid command."""
    command_line().parse_args(arguments, exit_on_error=False, print_error=False)
