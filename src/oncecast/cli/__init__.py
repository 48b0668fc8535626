"""The command `oncecast`: thin functions over the assembly; errors are one line on stderr."""

from __future__ import annotations

import os
import sys
from errno import EDQUOT, ENOSPC
from importlib.metadata import version

from oncecast.cli import output
from oncecast.core.errors import OncecastError


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and status 1."""
    _open_closed_streams()
    output.escape_what_streams_lack()
    status = 0  # not sys.exit() below: some Python versions wrap what an except* raises in a group
    try:
        sys.exit(_run(sys.argv[1:]))
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


def _run(arguments: list[str]) -> int | None:
    if arguments == ["--version"]:  # without the library of the command line: it takes longer than all the rest
        output.line(version("oncecast"))
        return 0
    from oncecast.cli import commands

    if arguments in ([], ["-h"], ["--help"]):
        commands.load_all()
    result: int | None = commands.app(arguments)
    return result


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
