"""Check whether the real command line accepts a command, without running it."""

from __future__ import annotations

from collections.abc import Sequence

from oncecast.cli.commands import app


def check_command(arguments: Sequence[str]) -> None:
    """Raise cyclopts.CycloptsError if `oncecast ARGUMENTS…` is not a valid command."""
    app.parse_args(arguments, exit_on_error=False, print_error=False)
