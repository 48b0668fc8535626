"""Checks of PostgreSQL, of Redis and of the producers, as a listener would use them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

import httpx2
import msgspec
import psycopg
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from oncecast.cli.doctor.diagnosis import Diagnoses, Diagnosis, judged
from oncecast.client.address import publish_url, shown
from oncecast.client.connecting import http_options
from oncecast.clock import SYSTEM_CLOCK
from oncecast.config import ListenerConfig
from oncecast.core.errors import OncecastError, StartError
from oncecast.stores.postgres import Database
from oncecast.stores.postgres.database import SERVER_VERSION_MIN
from oncecast.stores.postgres.errors import SessionShared, translate
from oncecast.stores.postgres.schema import check_rights, read_state, tables

ANSWER_DEADLINE_S = 5.0
CLOCK_DIFFERENCE_MAX_S = 2.0
OWN_CONNECTIONS = 10
"""Connections of a listener in addition to DB_POOL, with some to spare."""
REDIS_MAJOR_MIN = 7
_COMMANDS = (
    ("EVALSHA", "0" * 40, "1", "{key}"),
    ("SCRIPT", "LOAD", "return 1"),
    ("MGET", "{key}"),
    ("GET", "{key}"),
    ("SET", "{key}", "x", "NX", "PX", "1000"),
    ("PEXPIRE", "{key}", "1000"),
    ("DEL", "{key}"),
)
"""Everything that a listener sends, as it sends it, also from its scripts."""
_DURABLE = {
    "fsync": "a power cut may lose committed rows, and so events",
    "full_page_writes": "a power cut may damage the tables",
}
_SETTINGS = """
select current_setting('server_version_num')::integer, current_setting('server_version'), pg_is_in_recovery(),
    current_setting('server_encoding'),
    current_setting('fsync'), current_setting('full_page_writes'), current_setting('default_transaction_read_only'),
    current_setting('max_connections')::integer, extract(epoch from clock_timestamp())::float8
"""


async def check_postgres(listener: ListenerConfig) -> list[Diagnosis]:
    """Return the findings about PostgreSQL."""
    database = Database(
        listener.database_url, SYSTEM_CLOCK, schema=listener.listener_group, instance="doctor", token="0" * 16
    )
    found: list[Diagnosis] = []
    try:
        async with asyncio.timeout(2 * ANSWER_DEADLINE_S), await database.connect() as connection:
            asked_s = time.time()
            row = await (await connection.execute(_SETTINGS)).fetchone()
            assert row is not None  # noqa: S101 - a query without a table
            found += [Diagnosis("PostgreSQL", "ok", f"{row[1]} answers"), *_of_settings(listener, row, asked_s)]
            found.append(await _of_sessions(database))
            state = await read_state(connection, listener.listener_group)
            if not state.pending:
                await check_rights(connection, listener.listener_group, tables())
    except StartError as error:
        return [*found, Diagnosis("schema", "error", str(error), "see docs/how-to/least-privilege.md")]
    except (psycopg.Error, OSError, OncecastError) as error:
        reason = str(translate(error) if isinstance(error, psycopg.Error | TimeoutError) else error)
        return [*found, Diagnosis("PostgreSQL", "error", reason, "start PostgreSQL, or check DATABASE_URL")]
    missing = len(state.pending)
    detail = f"{listener.listener_group}: " + (f"{missing} migrations are missing" if missing else "up to date")
    remedy = "the first listener applies them; or run: oncecast migrate"
    return [*found, judged("schema", not missing, detail, remedy, otherwise="warning")]


def _of_settings(listener: ListenerConfig, row: Any, asked_s: float) -> Diagnoses:
    number, text, is_standby, encoding, fsync, full_page_writes, read_only, connections_max, now_s = row
    yield judged(
        "PostgreSQL version",
        number >= SERVER_VERSION_MIN,
        text,
        f"upgrade to {SERVER_VERSION_MIN // 10_000} or newer",
    )
    yield judged(
        "writes",
        not is_standby,
        "it is a standby" if is_standby else "it accepts writes",
        "DATABASE_URL must name the primary",
    )
    yield judged("encoding", encoding == "UTF8", encoding, "create the database with the encoding UTF8")
    if read_only == "on":
        detail = "default_transaction_read_only is on; listeners turn it off for their sessions"
        yield Diagnosis("writes", "warning", detail, "to keep listeners out, revoke their rights instead")
    for name, value in (("fsync", fsync), ("full_page_writes", full_page_writes)):
        yield judged(name, value == "on", f"{name} is {value}", f"turn it on: {_DURABLE[name]}")
    needed = listener.db_pool + OWN_CONNECTIONS
    yield judged(
        "connections",
        connections_max >= needed,
        f"max_connections is {connections_max}; each listener uses up to {needed}",
        "raise max_connections, or lower DB_POOL",
        otherwise="warning",
    )
    yield _of_clock("PostgreSQL", now_s - asked_s)


async def _of_sessions(database: Database) -> Diagnosis:
    try:
        await database.check_sessions()
    except SessionShared as error:
        remedy = "use session pooling, or connect directly; see docs/how-to/connection-poolers.md"
        return Diagnosis("pooling", "error", str(error), remedy)
    return Diagnosis("pooling", "ok", "each connection has a session of its own")


async def check_redis(listener: ListenerConfig) -> list[Diagnosis]:
    """Return the findings about Redis."""
    client = redis.Redis.from_url(
        listener.redis_url,
        socket_timeout=ANSWER_DEADLINE_S,
        socket_connect_timeout=ANSWER_DEADLINE_S,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        async with asyncio.timeout(2 * ANSWER_DEADLINE_S):
            await client.ping()
            key = f"oncecast:{{{listener.listener_group}}}:r:doctor"
            return [Diagnosis("Redis", "ok", "it answers"), *[each async for each in _of_redis(client, key)]]
    except (RedisError, OSError, RuntimeError) as error:
        detail = f"{type(error).__name__}: {error}".rstrip(": ")
        remedy = "start Redis, or check REDIS_URL; without it listeners work, but each tries every event"
        return [Diagnosis("Redis", "error", detail, remedy)]
    finally:
        await client.aclose()


async def _of_redis(client: Any, key: str) -> AsyncIterator[Diagnosis]:
    asked_s = time.time()
    if (at := await _allowed(client.time())) is not None:
        yield _of_clock("Redis", at[0] + at[1] / 1e6 - asked_s)
    info = await _allowed(client.info("server")) or {}
    number = str(info.get("redis_version", ""))
    if number:
        is_new = int(number.split(".")[0]) >= REDIS_MAJOR_MIN
        yield judged("Redis version", is_new, number, f"upgrade to {REDIS_MAJOR_MIN} or newer, or use Valkey")
    policy = (await _allowed(client.config_get("maxmemory-policy")) or {}).get("maxmemory-policy")
    if policy is not None:
        yield judged(
            "eviction",
            policy == "noeviction",
            f"maxmemory-policy is {policy}",
            "set it to noeviction: an evicted lease lets two listeners work on the same events",
            otherwise="warning",
        )
    verdicts = {" ".join(c[:2]) if c[0] == "SCRIPT" else c[0]: await _is_allowed(client, key, c) for c in _COMMANDS}
    if None in verdicts.values():
        yield Diagnosis("commands", "ok", "they cannot be checked: this user may not run ACL DRYRUN")
        return
    refused = [name for name, is_allowed in verdicts.items() if not is_allowed]
    yield judged(
        "commands",
        not refused,
        f"refused: {', '.join(refused)}" if refused else "all are allowed",
        f"allow them to the user of REDIS_URL, for keys such as {key}",
    )


async def _is_allowed(client: Any, key: str, command: Sequence[str]) -> bool | None:
    """Return whether the user may run a command; None if Redis does not tell."""
    words = [word.replace("{key}", key) for word in command]
    answer = await _allowed(client.execute_command("ACL", "DRYRUN", await _user(client), *words))
    return None if answer is None else answer in (b"OK", "OK", True)


async def _user(client: Any) -> str:
    name = await _allowed(client.acl_whoami())
    return name.decode() if isinstance(name, bytes) else str(name or "default")


async def _allowed(call: Any) -> Any:
    """Return the answer; None if the user or the server does not allow the question."""
    try:
        return await call
    except RedisError:
        return None


async def check_producers(listener: ListenerConfig) -> list[Diagnosis]:
    """Return the findings about the producers that the listener reads from."""
    return [found for url in listener.ws_url for found in await _check_producer(url)]


async def _check_producer(url: str) -> list[Diagnosis]:
    address = publish_url(url).removesuffix("/events")
    what = f"producer {shown(address)}"
    asked_s = time.time()
    try:
        async with httpx2.AsyncClient(**http_options(address, {}), timeout=ANSWER_DEADLINE_S) as client:
            answer = await client.get(f"{address}/health")
        health = msgspec.json.decode(answer.content, type=dict[str, Any])
    except (httpx2.HTTPError, msgspec.MsgspecError, OSError) as error:
        detail = f"no answer: {type(error).__name__}: {error}".rstrip(": ")
        return [Diagnosis(what, "error", detail, "start the producer, or check WS_URL")]
    status = str(health.get("status", "?"))
    reason = f"{status}: {health['reason']}" if health.get("reason") else status
    found = [judged(what, status == "ok", reason, str(health.get("remedy") or ""), otherwise="warning")]
    with contextlib.suppress(KeyError, ValueError):  # a proxy may send no date, or another text
        at = parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
        found.append(_of_clock(what, (at - datetime.fromtimestamp((asked_s + time.time()) / 2, UTC)).total_seconds()))
    return found


def _of_clock(what: str, difference_s: float) -> Diagnosis:
    """Return the finding about a clock; the header Date has whole seconds."""
    return judged(
        f"clock of {what}",
        abs(difference_s) <= CLOCK_DIFFERENCE_MAX_S,
        f"{difference_s:+.1f} s from this machine's",
        "run NTP on all machines: ages, retention and log times are wrong otherwise",
        otherwise="warning",
    )


def own_version() -> Diagnosis:
    """Return the version of Oncecast."""
    return Diagnosis("Oncecast", "ok", version("oncecast"))
