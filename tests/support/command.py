"""The real command line, asked whether it understands a command without running it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cyclopts

from oncecast import cli


@cache
def command_line() -> cyclopts.App:
    """All of it, as `oncecast` has it."""
    cli._register()
    return cli.app


def check_command(arguments: Sequence[str]) -> None:
    """Raises cyclopts.CycloptsError where `oncecast ARGUMENTS…` is no command of ours."""
    command_line().parse_args(arguments, exit_on_error=False, print_error=False)
