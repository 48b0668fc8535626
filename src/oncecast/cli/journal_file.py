"""The commands `journal check` and `journal skip`, which work on a journal's file without its producer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.operate import Json
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import unix_us
from oncecast.core.errors import OncecastError, StartError

if TYPE_CHECKING:
    import apsw

File = Annotated[Path, Parameter(help="The file of the journal.")]


def check(file: File = Path("journal.db"), /, *, json: Json = None) -> int:
    """Read the whole FILE of a journal and print the offsets that cannot be read. Its producer may be running.

    The exit status is 1 if there are any. Use a backup that has them, or give them up with `oncecast journal skip`.
    """
    from oncecast.journal.file import damages

    with _opened(file, read_only=True) as connection:
        found = list(damages(connection))
    name = output.printable(str(file))
    if output.wants_json(json):
        output.json({"file": str(file), "damaged": [damage._asdict() for damage in found]})
    elif not found:
        output.line(f"{name} is whole.")
    else:
        for first, last in reversed(found):
            output.line(f"offsets {first} to {last} cannot be read: {last - first + 1:,} events")
        output.line(f"To skip these events: oncecast journal skip {name} {first} {last}")
    return 1 if found else 0


def skip(file: Path, first: int, last: int, /, *, json: Json = None) -> None:
    """Give up the unreadable events FIRST to LAST in the FILE of a journal. Stop its producer first.

    These events are lost: every group that reaches them records a gap in PostgreSQL and continues after it. Readable
    events are never given up.

    Parameters
    ----------
    file
        The file of the journal.
    first
        The offset, as `oncecast journal check` prints it.
    last
        The offset, as `oncecast journal check` prints it.
    """
    from oncecast.journal.file import damages
    from oncecast.journal.file import skip as skip_damage
    from oncecast.journal.place import JournalPlace

    _must_exist(file)
    place = JournalPlace(file)
    try:
        with _opened(file, read_only=False) as connection:
            damage = next((damage for damage in damages(connection) if damage == (first, last)), None)
            if damage is None:
                raise StartError(f"offsets {first} to {last} are no damage of {file}: see 'oncecast journal check'")
            skip_damage(connection, damage, unix_us(SYSTEM_CLOCK))
    finally:
        place.close()
    if output.wants_json(json):
        output.json({"file": str(file), "skipped": damage._asdict()})
    else:
        output.line(f"Offsets {first} to {last} are a gap from now on.")


@contextmanager
def _opened(file: Path, *, read_only: bool) -> Iterator[apsw.Connection]:
    """Open `file` while the block runs. Raises StartError if it is not a journal or SQLite cannot read it."""
    import apsw

    from oncecast.journal.file import open_file
    from oncecast.journal.place import check_only_name

    _must_exist(file)
    check_only_name(file)
    try:
        connection = open_file(file, read_only=read_only)
        try:
            yield connection
        finally:
            connection.close()
    except apsw.Error as error:
        raise StartError(f"{file} cannot be read as a journal: {error}; only a backup helps") from None


def _must_exist(file: Path) -> None:
    if not file.is_file():
        raise OncecastError(f"there is no journal {file}: name its file (JOURNAL_PATH of its producer)")
