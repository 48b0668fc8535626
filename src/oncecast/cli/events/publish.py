"""The commands `send` (publish events to a producer) and `tail` (follow its broadcast)."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.events.file import BadInput, EventsFile
from oncecast.cli.stack import state_file as stack_file
from oncecast.client.errors import PublishRefused
from oncecast.core.durations import duration_s
from oncecast.core.errors import ConfigError, OncecastError
from oncecast.core.event import Cursor

INTERRUPTED_STATUS = 130
STDOUT_CLOSED_STATUS = 0


@dataclass(slots=True)
class SendProgress:
    """The progress of a `send`."""

    started_s: float = field(default_factory=time.monotonic)
    accepted: int = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s

    @property
    def events_per_s(self) -> float:
        """Accepted events per second since the start."""
        return self.accepted / max(self.seconds, 1e-6)


def send(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    to: Annotated[str | None, Parameter(show_default=False)] = None,
    deadline: str = "60s",
    in_order: Annotated[bool, Parameter(negative="--any-order")] = True,
    id: Annotated[list[str] | None, Parameter(negative=(), show_default=False)] = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: bool | None = None,
) -> int:
    """Publish the events in FILE, or from standard input with `-`: NDJSON, or one JSON array.

    Events are sent as they are read, and accepted in their order. An event without an id gets one. The exit status is
    0 if every event is on the producer's disk. The command sends PUBLISH_TOKEN if it is set.

    Parameters
    ----------
    file
        The file; `-` is standard input.
    to
        The URL of the producer; by default that of the stack, else http://localhost:8080.
    deadline
        The time in which each batch must be acknowledged: 60s, 500ms, 2m.
    in_order
        Send a batch when the previous one is accepted, so that handlers with ordered_by see the order of FILE.
        --any-order sends three batches at a time, which is faster and does not keep the order.
    id
        The place of the id in events that are not CloudEvents: a JSON Pointer such as /order/number. By default the
        member `id`, which is added if it is missing. If given twice, both values together are the id.
    json
        Print the result as JSON; the default if the output is not a terminal.
    """
    sending = SendProgress()
    failure: str | None = None
    try:
        deadline_s = _deadline_s(deadline)
        id_at = _id_at(id)
        token = secret("PUBLISH_TOKEN")
        url = _producer(to, data)
        if file == "-" and sys.stdin is None:
            raise ConfigError("standard input is closed: give the name of a file, or pipe events into the command")
        descriptor = sys.stdin.fileno() if file == "-" else os.open(file, os.O_RDONLY)
    except (OSError, ConfigError) as error:
        return output.error(_described(error, file))
    events = EventsFile(descriptor, gives_ids=not id_at)
    try:
        with _progress(events, sending):
            work = _send(events, sending, to=url, token=token, deadline_s=deadline_s, in_order=in_order, id_at=id_at)
            asyncio.run(work)
    except KeyboardInterrupt:
        failure = "interrupted"
    except (OncecastError, OSError) as error:
        failure = _explained(error, events, file)
    finally:
        if file != "-":
            os.close(descriptor)
    _print_result(sending, events, failure, as_json=output.wants_json(json))
    if failure == "interrupted":
        return INTERRUPTED_STATUS
    return 1 if failure else 0


async def _send(
    events: EventsFile,
    sending: SendProgress,
    *,
    to: str,
    token: str | None,
    deadline_s: float,
    in_order: bool,
    id_at: list[str],
) -> None:
    from oncecast.client.publisher import Publisher  # httpx2 takes a tenth of a second to import

    def count(accepted: int) -> None:
        sending.accepted += accepted

    def tell(reason: str) -> None:
        output.note(f"{reason}; trying again for up to {deadline_s:g} s")

    async with Publisher(to, token=token, deadline_s=deadline_s, on_trouble=tell, id_at=id_at) as publisher:
        await publisher.publish_json(events.runs(), count, in_order=in_order)


def tail(
    *,
    from_: Annotated[str | None, Parameter(show_default=False)] = None,
    earliest: bool = False,
    after: str | None = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: bool | None = None,
) -> int:
    """Follow the broadcast of a producer until Ctrl-C. The command sends SUBSCRIBE_TOKEN if it is set.

    Parameters
    ----------
    from_
        The URL of the producer; by default that of the stack, else http://localhost:8080.
    earliest
        Begin with the oldest event in the journal instead of the next one.
    after
        Begin after this cursor, EPOCH:OFFSET.
    json
        Print each event as one line of JSON; the default if the output is not a terminal.
    """
    try:
        if earliest and after is not None:
            raise ConfigError("--earliest and --after exclude each other")
        start = None if after is None else Cursor.parse(after)
        token = secret("SUBSCRIBE_TOKEN")
        url = _producer(from_, data)
        asyncio.run(_tail(url, token, start, earliest, as_json=output.wants_json(json)))
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe: keep the interpreter from flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STDOUT_CLOSED_STATUS
    except (ConfigError, OncecastError, ValueError) as error:
        return output.error(error)
    return 0


async def _tail(url: str, token: str | None, after: Cursor | None, earliest: bool, *, as_json: bool) -> None:
    from oncecast.client.subscription import Tail

    def tell(reason: str, delay_s: float) -> None:
        output.note(f"{reason}; trying again in {delay_s:.1f} s")

    async for received in Tail(url, token=token, after=after, earliest=earliest, on_disconnect=tell):
        if as_json:
            output.line(received.raw.decode())
        else:
            event = received.event
            at = time.strftime("%H:%M:%S", time.localtime(received.at_us / 1e6))
            data = output.printable(event.raw_data[:2000].decode(errors="replace"))
            head = f"{at}  {received.cursor.offset:>8}  {event.type}  {event.id}"
            output.line(output.printable(head) + (f"  {data}" if data else ""))


def _producer(given: str | None, data: Path) -> str:
    """Return the URL given, else of the stack's first producer, else the default; print it if it is unusual."""
    found = stack_file.addresses("producer", given, data)[0]
    if given is None and found.replace("127.0.0.1", "localhost") != stack_file.DEFAULT_PRODUCER:
        output.note(f"The producer is {found}, of the stack in {data}.")
    return found


def secret(name: str) -> str | None:
    """Return the secret in the variable `name`, else in the file named by `<name>_FILE`. Raises ConfigError."""
    if name not in os.environ and (path := os.environ.get(f"{name}_FILE")):
        try:
            return Path(path).read_text("utf-8").strip() or None
        except OSError as error:
            raise ConfigError(f"{name}_FILE: cannot read {path!r}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{name}_FILE: {path!r} is not UTF-8") from None
    return os.environ.get(name) or None


def _id_at(pointers: list[str] | None) -> list[str]:
    for pointer in pointers or ():
        if not pointer.startswith("/"):
            raise ConfigError(
                f"invalid value for --id: {pointer[:40]!r} (expected a JSON Pointer such as /order/number)"
            )
    return pointers or []


def _deadline_s(text: str) -> float:
    try:
        deadline_s = duration_s(text)
    except ValueError as error:
        raise ConfigError(f"invalid value for --deadline: {text[:40]!r} (expected {error})") from None
    if not deadline_s:
        raise ConfigError(f"invalid value for --deadline: {text[:40]!r} (expected a duration above 0)")
    return deadline_s


def _described(error: Exception, file: str) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or file}: {error.strerror or error}"
    return str(error)


def _explained(error: Exception, events: EventsFile, file: str) -> str:
    """Return the error message for `error`, with the line or element at fault."""
    if isinstance(error, PublishRefused) and error.position is not None:
        named = f" ({error.event_id})" if error.event_id else ""
        return f"{events.noun} {error.position}{named} is refused: {error.reason}"
    if isinstance(error, BadInput):
        return f"{'standard input' if file == '-' else file}: {error}"
    return _described(error, file)


def _print_result(sending: SendProgress, events: EventsFile, failure: str | None, *, as_json: bool) -> None:
    if failure is not None:
        output.error(failure)
    if as_json:
        result = {
            "accepted": sending.accepted,
            "complete": failure is None,
            "error": failure,
            "ids_given": events.ids_given,
            "seconds": round(sending.seconds, 3),
            "events_per_s": round(sending.events_per_s),
        }
        output.json(result)
        return
    output.line(_summary(sending, complete=failure is None))
    if failure is not None and sending.accepted:
        if events.ids_given == 0:
            output.line("Send it again safely: the same ids are the same events.")
        else:
            output.line("Sent again, events without an id of their own would be new events.")


def _summary(sending: SendProgress, *, complete: bool) -> str:
    if sending.accepted == 0:
        return "There was no event." if complete else "No event was acknowledged."
    many = "event" if sending.accepted == 1 else "events"
    took = f"in {sending.seconds:.2f} s ({sending.events_per_s:,.0f} events/s)"
    rest = "" if complete else "; the rest was not sent, or not acknowledged"
    return f"{sending.accepted:,} {many} accepted {took}{rest}."


@contextmanager
def _progress(events: EventsFile, sending: SendProgress) -> Iterator[None]:
    """Show a progress bar while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Accepted(ProgressColumn):
        def render(self, task: Task) -> Text:
            task.completed = events.read_bytes
            return Text(f"{sending.accepted:>11,} accepted  {sending.events_per_s:>9,.0f}/s")

    columns = (SpinnerColumn(), Accepted(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=8) as progress:
        progress.add_task("", total=events.size_bytes)
        yield
