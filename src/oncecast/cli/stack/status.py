"""The command `status`: show the health of every process of a stack, or of those named."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.stack import state_file as stack_file
from oncecast.cli.stack.state_file import ProcessEntry
from oncecast.client.address import publish_url, shown
from oncecast.client.connecting import http_options
from oncecast.core.errors import ConfigError

ANSWER_DEADLINE_S = 2.0
WATCH_INTERVAL_S = 1.0
_QUESTIONS = {"postgres": struct.pack("!ii", 8, 80877103)}
"""An SSLRequest, which PostgreSQL answers with one byte; Redis answers any command."""


def status(
    *,
    data: Path = stack_file.DEFAULT_DATA,
    producer: str | None = None,
    listener: Annotated[list[str] | None, Parameter(negative=())] = None,
    watch: Annotated[bool, Parameter(negative=())] = False,
    json: bool | None = None,
) -> int:
    """Show the health of each process.

    The exit status is 0 if all are healthy, 1 if one works with limits or is draining, 2 if one does not work.

    Parameters
    ----------
    data
        The folder of a stack that `oncecast up` started; ignored if processes are named.
    producer
        The URL of a producer.
    listener
        The URL of a listener; may be given several times.
    watch
        Show it again every second, until Ctrl-C; with JSON, all processes each time.
    json
        Print JSON, one object per line; the default if the output is not a terminal.
    """
    as_json = output.wants_json(json)
    while True:
        try:
            entries = (
                _named(producer, listener or [])
                or stack_file.entries(data)
                or _named(stack_file.DEFAULT_PRODUCER, [])
            )
        except ConfigError as error:
            return output.error(error)
        try:
            asyncio.run(_ask_all(entries))
            if watch and not as_json:
                output.clear()
            _print(entries, as_json=as_json)
            if watch:
                time.sleep(WATCH_INTERVAL_S)
                continue
        except KeyboardInterrupt:
            if not watch:
                raise
        return max(entry.exit_status for entry in entries)


def _print(entries: list[ProcessEntry], *, as_json: bool) -> None:
    if as_json:
        for entry in entries:
            output.json(entry)
    else:
        rows = [(entry.name, entry.state, entry.address, str(entry.pid or "–"), _summary(entry)) for entry in entries]
        output.table("", ("name", "state", "address", "pid", "details"), rows)


def _named(producer: str | None, listeners: list[str]) -> list[ProcessEntry]:
    named = [("producer", producer)] if producer else []
    named += [("listener", listener) for listener in listeners]
    for _, address in named:
        publish_url(address)  # raises ConfigError for an invalid URL
    return [ProcessEntry(name=name, address=address) for name, address in named]


async def _ask_all(entries: list[ProcessEntry]) -> None:
    async with asyncio.TaskGroup() as group:
        for entry in entries:
            if entry.state in ("", "running") and entry.address:
                group.create_task(_ask(entry, entry.address))


async def _ask(entry: ProcessEntry, address: str) -> None:
    """Fill in the entry's state, and its health if it speaks HTTP."""
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            if not address.startswith(("http://", "https://")):
                await _reach(address, entry.name)
                entry.state = "ok"
                return
            entry.address = shown(address)
            entry.health = await _health(address)
            entry.state = str(entry.health.get("status", "ok"))
    except (OSError, ValueError, msgspec.MsgspecError) as error:  # TimeoutError is an OSError
        entry.state = "down"
        entry.trouble = f"no answer: {error}" if str(error) else f"no answer within {ANSWER_DEADLINE_S:g} s"


async def _reach(address: str, name: str) -> None:
    """Wait for a response that needs no password; the kernel accepts connections even for a frozen server."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(_QUESTIONS.get(name, b"PING\r\n"))
        if not await reader.read(1):
            raise ConnectionError("it closes connections")
    finally:
        writer.close()


async def _health(address: str) -> dict[str, Any]:
    import httpx2

    async with httpx2.AsyncClient(**http_options(address, {})) as client:
        try:
            answer = await client.get(f"{address.rstrip('/')}/health")
        except httpx2.RequestError as error:
            raise ConnectionError(str(error)) from None
    return msgspec.json.decode(answer.content, type=dict[str, Any])


def _summary(entry: ProcessEntry) -> str:
    """Return a summary of the health; fields that are missing are left out."""
    health = entry.health or {}
    counted = _counted(health)
    if entry.is_well or not health.get("reason"):
        return counted or entry.trouble
    since = f"since {output.cell(health['since'])[:19]}Z: " if health.get("since") else ""
    remedy = f"; {output.cell(health['remedy'])}" if health.get("remedy") else ""
    return f"{since}{output.cell(health['reason'])}{remedy}" + (f" ({counted})" if counted else "")


def _counted(health: dict[str, Any]) -> str:
    journal = health.get("journal")
    if isinstance(journal, dict):
        listeners = len(health.get("listeners") or [])
        return f"{output.cell(journal.get('last'))} events, {listeners} listener{'s' * (listeners != 1)}"
    words = [
        f"{output.cell(health[name])} {name.replace('_', ' ')}"
        for name in ("stored", "duplicates", "dead", "in_flight")
        if name in health
    ]
    if count := health.get("conflicts_open"):
        words.append(f"{output.cell(count)} open conflict{'s' * (count != 1)}")
    return ", ".join(words)
