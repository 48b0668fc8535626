"""The command `doctor`: what would fail, or endanger the promise, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.doctor.diagnosis import Diagnosis
from oncecast.cli.doctor.machine import check_machine
from oncecast.cli.doctor.servers import check_postgres, check_producers, check_redis, own_version
from oncecast.cli.operate import Json
from oncecast.cli.stack import state_file as stack_file
from oncecast.config import Common, ListenerConfig, ProducerConfig, load
from oncecast.core.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Common)
_MARKS = {"ok": "✓", "warning": "!", "error": "✗"}
_ANSWER_DEADLINE_S = 3.0

Role = Literal["producer", "listener"]


def doctor(
    role: Role | None = None,
    /,
    *,
    group: Annotated[
        str | None, Parameter(help="The group whose schema is checked. [LISTENER_GROUP, else that of the stack]")
    ] = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Check settings and machine; for a listener also PostgreSQL, Redis and its producers.

    Run it where a process will run, with the same settings: `oncecast doctor listener`. In the folder of a stack it
    checks the servers of the stack. It changes nothing. The exit status is 0 if all is well, 1 after warnings, and 2
    after errors.

    Parameters
    ----------
    role
        The kind of process that will run here: producer or listener; both by default.
    """
    environment = {**_of_stack(data, os.environ), **os.environ, **({"LISTENER_GROUP": group} if group else {})}
    wrong: list[Diagnosis] = []
    producer = None if role == "listener" else _load(ProducerConfig, environment, wrong)
    listener = None if role == "producer" else _load(ListenerConfig, environment, wrong)
    found = [own_version(), *dict.fromkeys(wrong), *check_machine(producer, listener)]
    if not wrong:
        found.insert(1, Diagnosis("settings", "ok", "all are valid"))
    if listener is not None:
        found += asyncio.run(_check_servers(listener))
    if output.wants_json(json):
        for each in found:
            output.json(each)
    else:
        _print(found)
    return max(("ok", "warning", "error").index(each.verdict) for each in found)


def _of_stack(data: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings with which a listener uses the servers of a stack, unless they are set otherwise."""
    files = {"DATABASE_URL": data / "postgres.url", "REDIS_URL": data / "redis.url"}
    entries = stack_file.entries(data)
    producers = [str(entry.address) for entry in entries if entry.name.startswith("producer")]
    if not producers or not all(file.is_file() for file in files.values()):
        return {}
    values = {name: file.read_text("utf-8").strip() for name, file in files.items()}
    values["WS_URL"] = ",".join(address.replace("http", "ws", 1) for address in producers)
    for entry in entries:
        if entry.name.startswith("listener") and (group := _group_of(str(entry.address))):
            values["LISTENER_GROUP"] = group
    return {name: v for name, v in values.items() if not {name, f"{name}_FILE"} & environment.keys()}


def _group_of(address: str) -> str | None:
    """Return the group of a listener, if it answers."""
    import httpx2

    try:
        answer = httpx2.get(f"{address}/health", timeout=_ANSWER_DEADLINE_S, trust_env=False)
        return str(msgspec.json.decode(answer.content, type=dict[str, Any])["group"])
    except (httpx2.HTTPError, msgspec.MsgspecError, KeyError):
        return None


def _load(kind: type[ConfigT], environment: Mapping[str, str], wrong: list[Diagnosis]) -> ConfigT | None:
    try:
        return load(kind, environment)
    except ConfigError as error:
        wrong += [Diagnosis("settings", "error", line, "correct it") for line in str(error).splitlines()]
        return None


async def _check_servers(listener: ListenerConfig) -> list[Diagnosis]:
    checks = await asyncio.gather(check_postgres(listener), check_redis(listener), check_producers(listener))
    return [each for found in checks for each in found]


def _print(found: list[Diagnosis]) -> None:
    for each in found:
        output.line(output.printable(f"{_MARKS[each.verdict]} {each.what}: {each.detail}"))
        if each.remedy:
            output.line(output.printable(f"    To do: {each.remedy}"))
    errors, warnings = (sum(each.verdict == verdict for each in found) for verdict in ("error", "warning"))
    output.line("All is well." if not errors + warnings else f"Errors: {errors}, warnings: {warnings}.")
