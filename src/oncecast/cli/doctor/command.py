"""The command `doctor`: what would fail, or endanger the promise, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

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
DEFAULT_GROUP = "oncecast"


def doctor(
    *,
    group: Annotated[
        str | None, Parameter(help="The group whose schema is checked. [LISTENER_GROUP, oncecast]")
    ] = None,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Json = None,
) -> int:
    """Check the settings of this environment, this machine, PostgreSQL, Redis and the producers.

    Run it where a listener or producer will run, with the same settings; without any, it checks the servers of the
    stack in this folder. It changes nothing. The exit status is 0 if all is well, 1 after warnings, 2 after errors.
    """
    environment = {"LISTENER_GROUP": DEFAULT_GROUP, **_of_stack(data), **os.environ}
    if group:
        environment["LISTENER_GROUP"] = group
    wrong: list[Diagnosis] = []
    producer = _load(ProducerConfig, environment, wrong)
    listener = _load(ListenerConfig, environment, wrong)
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


def _of_stack(data: Path) -> dict[str, str]:
    """Return the settings with which a listener uses the servers of a stack; none without a stack."""
    files = {"DATABASE_URL": data / "postgres.url", "REDIS_URL": data / "redis.url"}
    producers = [str(entry.address) for entry in stack_file.entries(data) if entry.name == "producer"]
    if not producers or not all(file.is_file() for file in files.values()):
        return {}
    urls = {name: file.read_text("utf-8").strip() for name, file in files.items()}
    return {**urls, "WS_URL": producers[0].replace("http", "ws", 1)}


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
    output.line("All is well." if not errors + warnings else f"{errors} errors, {warnings} warnings.")
