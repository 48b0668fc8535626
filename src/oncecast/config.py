"""Every setting: its name, default, meaning and parser. A flag beats the environment, which beats the default.

All settings are read together at the start. Each invalid one is reported on one line with the variable, the value
(never a secret) and what is expected. Only the command and the assembly import this module.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from oncecast.client.address import broadcast_url
from oncecast.core.dead_letter_url import RabbitMQAddress, SqsAddress, dead_letter_address
from oncecast.core.durations import duration_s
from oncecast.core.errors import ConfigError
from oncecast.core.groups import ANY_GROUP, FIRST_TO_JOIN, is_group_name
from oncecast.core.redis_url import redis_url
from oncecast.core.wire import LARGEST_EVENT_MAX_BYTES

_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|)")
_BYTES = {"B": 1, "": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
TOKEN_MIN_CHARS = 8
FRAME_MAX_MIB = LARGEST_EVENT_MAX_BYTES // 1024**2
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def duration_or_off(text: str) -> float | None:
    """Parse a duration above 0, or `off`."""
    if text.strip().lower() == "off":
        return None
    if not duration_s(text):
        raise ValueError("a duration such as 30d, or off")
    return duration_s(text)


def size_bytes(text: str) -> int:
    """Parse `32 MiB`, `1GiB` or a bare number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match.group(1)):
        raise ValueError("a size such as 32MiB or 1048576")
    return int(match.group(1)) * _BYTES[match.group(2)]


def size_bytes_up_to(most_mib: int) -> Callable[[str], int]:
    """Return a parser for a size of at most `most_mib` MiB."""

    def read(text: str) -> int:
        size = size_bytes(text)
        if size > most_mib * 1024**2:
            raise ValueError(f"at most {most_mib}MiB: larger frames reach no listener")
        return size

    return read


def count(text: str) -> int:
    """Parse a whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**9):
        raise ValueError("a whole number, 1 or more")
    return int(text)


def port(text: str) -> int:
    """Parse a TCP port; 0 lets the system choose."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError("a port from 0 to 65535")
    return int(text)


def flag(text: str) -> bool:
    """Parse 1 or 0, yes or no, true or false."""
    answers = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    if text.lower() not in answers:
        raise ValueError("1 or 0")
    return answers[text.lower()]


def text(text: str) -> str:
    """Accept any text that is not empty."""
    if not text.strip():
        raise ValueError("a text that is not empty")
    return text


def token(text: str) -> str | None:
    """Accept a secret that fits into a header; return None if it is empty."""
    if text and not (len(text) >= TOKEN_MIN_CHARS and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError(f"{TOKEN_MIN_CHARS} or more printable ASCII characters without spaces")
    return text or None


def listener_tokens(text: str) -> tuple[tuple[str, str], ...]:
    """Parse comma-separated tokens: `GROUP:TOKEN` for listeners of a group, `TOKEN` for those of any group."""
    found = []
    for word in words(text):
        name, colon, rest = word.partition(":")
        if colon and (not is_group_name(name) or ":" in rest):
            raise ValueError("SECRET, or GROUP:SECRET for each group, comma-separated; no colon within a secret")
        found.append((name if colon else ANY_GROUP, token(rest if colon else word) or ""))
        if not found[-1][1]:
            raise ValueError(f"{TOKEN_MIN_CHARS} or more printable ASCII characters in each secret")
    return tuple(found)


def tokens(text: str) -> tuple[str, ...]:
    """Parse comma-separated secrets, each of which fits into a header."""
    return tuple(token(word) or "" for word in words(text))


def file_path(text: str) -> Path:
    """Parse the path of a file."""
    if not text.strip():
        raise ValueError("the path of a file")
    return Path(text)


def postgres_address(text: str) -> str:
    """Check an address of PostgreSQL; imports the library late, so that only listeners load it."""
    from oncecast.stores.postgres.address import database_url

    return database_url(text)


def ws_urls(text: str) -> tuple[str, ...]:
    """Parse one or more WebSocket URLs, comma-separated, with or without a trailing slash."""
    return tuple(_ws_url(part.strip()) for part in text.split(","))


def _ws_url(text: str) -> str:
    try:
        if text.partition("://")[0].lower() in ("ws", "wss"):
            broadcast_url(text)
            return text
    except ConfigError:
        pass  # the message below names the setting
    raise ValueError("URLs such as ws://localhost:8080 or wss://host/path, comma-separated, without ? and #")


def host_address(text: str) -> str:
    """Parse an address to bind: a name, or an IPv4 or IPv6 address."""
    host = text.strip().removeprefix("[").removesuffix("]")
    if not host or not all(c.isalnum() or c in ".-_:%" for c in host):
        raise ValueError("a name or an address such as 127.0.0.1, ::1 or 0.0.0.0")
    return host


def host_names(text: str) -> tuple[str, ...]:
    """Parse comma-separated host names, as browsers send them; a port is dropped."""
    return tuple(_host_name_of(word) for word in words(text))


def _host_name_of(word: str) -> str:
    try:
        name = urlsplit(f"//{word}").hostname if word.strip("[]").count(":") < 2 or "[" in word else word
        if name and not set(word) & set("/?#@* "):
            return name.encode("idna").decode().lower() if not name.isascii() else name.lower()
    except ValueError:
        pass  # refused below
    raise ValueError("names of hosts such as shop.example or 10.0.0.5, comma-separated, without scheme and path")


def origins(text: str) -> tuple[str, ...]:
    """Parse comma-separated web origins, as browsers send them: without default port and path."""
    return tuple(_origin_of(word) for word in words(text))


def _origin_of(word: str) -> str:
    try:
        parts = urlsplit(word.lower())
        rest = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme in ("http", "https") and parts.hostname and not rest and parts.port != 0:
            host = _host_name_of(parts.hostname)
            host = f"[{host}]" if ":" in host else host
            usual = {"http": 80, "https": 443}[parts.scheme]
            return f"{parts.scheme}://{host}" + ("" if parts.port in (None, usual) else f":{parts.port}")
    except ValueError:
        pass  # no URL
    raise ValueError("origins such as https://shop.example, comma-separated")


def words(text: str) -> tuple[str, ...]:
    """Parse comma-separated texts."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def group(text: str) -> str:
    """Parse the name of a group, which is also the name of its schema."""
    if not is_group_name(text):
        raise ValueError("a name of a-z, 0-9 and _, at most 40 long, such as shop")
    return text


def groups(text: str) -> tuple[str, ...]:
    """Parse comma-separated names of groups, or the word for the first group that joins."""
    if text.strip() == FIRST_TO_JOIN:
        return (FIRST_TO_JOIN,)
    return tuple(group(name) for name in words(text))


def instance(text: str) -> str:
    """Parse the name of a process in logs and lists."""
    if not _INSTANCE.fullmatch(text):
        raise ValueError("a name of letters, digits, '.', '_' and '-', at most 63 long, such as listener-a")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts one of these words."""

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(" or ".join(choices))
        return text.lower()

    return read


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")
    return name[:63] or "oncecast"


def setting(default: str | None, read: Callable[[str], Any], about: str, *, secret: bool = False) -> Any:
    """Define a field that is read from the environment variable of its name in capitals."""
    return field(metadata={"default": default, "read": read, "about": about, "secret": secret}, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Common:
    """Settings that producer and listener share."""

    instance_id: str = setting(
        "",
        lambda text: instance(text or _host_name()),
        "name of this process in logs and lists; by default the name of the host",
    )
    host: str = setting(
        "127.0.0.1",
        host_address,
        "address to bind; another address than 127.0.0.1 needs all tokens, or ALLOW_NO_TOKEN=1",
    )
    allow_no_token: bool = setting(
        "0", flag, "1 allows unset tokens on any address: everyone who reaches it may use the rights without a token"
    )
    subscribe_token: str | None = setting(
        "", token, "token that readers of events must send, as `Authorization: Bearer …`", secret=True
    )
    admin_token: str | None = setting(
        "", token, "token that operators must send to replay, edit, prune and forget", secret=True
    )
    allowed_hosts: tuple[str, ...] = setting(
        "", host_names, "additional Host headers that the process answers, comma-separated"
    )
    allowed_origins: tuple[str, ...] = setting("", origins, "additional web origins that may write, comma-separated")
    request_head_max_bytes: int = setting(
        "16KiB", size_bytes, "maximum size of the head of a request: request line and headers"
    )
    request_head_timeout: float = setting(
        "10s", duration_s, "time that a client may take to send the head of a request"
    )
    connections_max: int = setting(
        "1000",
        count,
        "maximum number of client connections, less if 'ulimit -n' is low; a new one closes the oldest idle one",
    )
    connections_per_address: int = setting(
        "500", count, "maximum number of connections of one client address; at most three quarters of CONNECTIONS_MAX"
    )
    start_attempts: int = setting("3", count, "number of attempts to start before the process exits with status 1")
    start_retry_delay: float = setting("3s", duration_s, "delay between attempts to start")
    log_format: str = setting(
        "console",
        one_of("console", "json"),
        "`console` for lines that people read, `json` for one JSON object per line",
    )
    log_level: str = setting(
        "info",
        one_of("debug", "info", "warning", "error"),
        "lowest severity that is logged: debug, info, warning or error",
    )
    drain_timeout: float = setting(
        "10s", duration_s, "time that in-flight work may take at shutdown, and the end of the lifespan after it"
    )


@dataclass(frozen=True, kw_only=True)
class ProducerConfig(Common):
    """Settings of `oncecast producer`."""

    port: int = setting("8080", port, "port of the page, HTTP and WebSocket")
    publish_token: str | None = setting("", token, "token that publishers must send", secret=True)
    listener_tokens: tuple[tuple[str, str], ...] = setting(
        "",
        listener_tokens,
        "tokens of listeners: `SECRET` for every group, or `shop:SECRET,audit:SECRET`; a client with SUBSCRIBE_TOKEN"
        " only reads",
        secret=True,
    )
    event_source: str = setting("/oncecast", text, "CloudEvents source of bare events")
    journal_path: Path = setting("journal.db", file_path, "file of the journal")
    journal_max_bytes: int = setting(
        "10GiB", size_bytes, "maximum size of the journal; when unprocessed events reach it, publishing is refused"
    )
    journal_max_age: float = setting(
        "7d", duration_s, "age at which events are deleted, once every group has processed them"
    )
    initial_groups: tuple[str, ...] = setting(
        FIRST_TO_JOIN,
        groups,
        "groups that events are kept for before they join, comma-separated; `first-to-join` is the first group that"
        " joins; if empty, events are kept for no group",
    )
    group_expires: float = setting(
        "7d", duration_s, "time without a connected listener after which a group stops holding back retention"
    )
    window_bytes: int = setting(
        "32MiB", size_bytes, "size of the recent frames kept in memory for readers that are not behind"
    )
    frame_max_bytes: int = setting(
        "1MiB",
        size_bytes_up_to(FRAME_MAX_MIB),
        f"maximum size of a frame of several events; at most {FRAME_MAX_MIB}MiB",
    )
    event_max_bytes: int = setting(
        "1MiB",
        size_bytes_up_to(FRAME_MAX_MIB),
        f"maximum size of an event; at most {FRAME_MAX_MIB}MiB, and at most REQUEST_MAX_BYTES",
    )
    request_max_bytes: int = setting("16MiB", size_bytes, "maximum size of a request; at least EVENT_MAX_BYTES")
    request_max_events: int = setting("100000", count, "maximum number of events in a request")
    requests_max_bytes: int = setting(
        "64MiB",
        size_bytes,
        "maximum size of the bodies of all current requests; above it, publishing is refused with 503",
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if an accepted size could not be published, or a reader could act as a listener."""
        if self.event_max_bytes > self.request_max_bytes:
            raise ConfigError(
                f"EVENT_MAX_BYTES: {self.event_max_bytes} bytes are more than REQUEST_MAX_BYTES"
                f" ({self.request_max_bytes}), and no request could hold such an event: raise REQUEST_MAX_BYTES too"
            )
        guarded = "SUBSCRIBE_TOKEN" if self.subscribe_token else "ADMIN_TOKEN" if self.admin_token else None
        if guarded and not self.listener_tokens and not self.allow_no_token:
            raise ConfigError(
                f"LISTENER_TOKENS: not set, though {guarded} is, so anybody who may read could act as a listener: set"
                " LISTENER_TOKENS here and LISTENER_TOKEN of each listener to one secret; or ALLOW_NO_TOKEN=1 if that"
                " is meant"
            )


@dataclass(frozen=True, kw_only=True)
class ListenerConfig(Common):
    """Settings of `oncecast listener`."""

    port: int = setting("3001", port, "port of the HTTP API, health and metrics")
    publish_token: str | None = setting(
        "", token, "token that the listener sends to producers when it publishes emitted events", secret=True
    )
    listener_token: tuple[str, ...] = setting(
        "",
        tokens,
        "token that the listener sends to producers, see LISTENER_TOKENS; or one per URL of WS_URL, comma-separated",
        secret=True,
    )
    ws_url: tuple[str, ...] = setting(
        "ws://localhost:8080", ws_urls, "URLs of the producers, comma-separated", secret=True
    )
    redis_url: str = setting("redis://localhost:6379", redis_url, "URL of Redis (7 or newer) or Valkey", secret=True)
    database_url: str = setting(
        "postgres://localhost/oncecast", postgres_address, "URL of PostgreSQL (14 or newer)", secret=True
    )
    listener_group: str = setting(
        "oncecast", group, "name of the group and of its schema; by default the application's name"
    )
    start_from: str = setting(
        "earliest",
        one_of("earliest", "latest"),
        "where a group begins in a journal that it has never read: `earliest` or `latest`",
    )
    events_retention: float | None = setting(
        "off",
        duration_or_off,
        "age at which rows below the saved cursors are deleted, or `off`; dead letters are kept",
    )
    force_handlers: bool = setting(
        "0", flag, "1 makes this application's handlers those of the group, even if the group had more"
    )
    db_connect_attempts: int = setting("10", count, "number of attempts to connect to PostgreSQL at the start")
    db_connect_delay: float = setting("3s", duration_s, "delay between these attempts")
    db_attempts: int = setting("3", count, "number of times that an insert is tried within one attempt of an event")
    db_retry_delay: float = setting("2s", duration_s, "delay between these tries")
    event_attempts: int = setting(
        "3", count, "number of attempts before an event becomes a dead letter, over all listeners and restarts"
    )
    event_retry_delay: float = setting("2s", duration_s, "delay between attempts of an event")
    retry_after_max: float = setting("5m", duration_s, "maximum delay that a handler may request with Retry")
    reconnect_base: float = setting(
        "1s", duration_s, "first delay before a lost producer is reconnected; doubles each time"
    )
    reconnect_max: float = setting("30s", duration_s, "maximum delay before a lost producer is reconnected")
    lease_ttl: float = setting(
        "30s",
        duration_s,
        "time until a lease expires without renewal; Redis keeps it 30 s longer, in case the listener's event loop is"
        " blocked",
    )
    mark_ttl: float = setting("15s", duration_s, "time until Redis deletes the done marker of a range of events")
    crashes_per_event_max: int = setting(
        "2", count, "number of crashed processes after which a quarantined event becomes a dead letter"
    )
    db_errors_per_event_max: int = setting(
        "20", count, "database errors that one event may cause before each counts as a failed attempt"
    )
    dead_letter_path: Path = setting("failed_events.log", file_path, "log file that gets one line per dead letter")
    dead_letter_url: RabbitMQAddress | SqsAddress | None = setting(
        "",
        dead_letter_address,
        "broker that also gets each dead letter: amqp://user:password@host/vhost?queue=NAME or sqs://REGION/QUEUE_NAME",
        secret=True,
    )
    handler_concurrency: int = setting(
        "8", count, "number of handlers that run at the same time, including replays; at most DB_POOL"
    )
    handler_timeout: float = setting(
        "60s", duration_s, "maximum time of all handlers of a transaction, for all its events together"
    )
    db_pool: int = setting(
        "10", count, "number of PostgreSQL connections for handlers; six more are opened for other work"
    )
    lock_timeout: float = setting("2s", duration_s, "maximum time that a statement waits for a lock")
    statement_timeout: float = setting("30s", duration_s, "maximum time that a statement runs")
    probe_interval: float = setting("1s", duration_s, "interval between probes of PostgreSQL while it is down")
    window_bytes: int = setting(
        "64MiB", size_bytes, "maximum size of events in flight, including Python objects; bounds memory"
    )

    def __post_init__(self) -> None:
        """Raise ConfigError unless there is one token for the producers, or one for each."""
        if len(self.listener_token) not in (0, 1, len(self.ws_url)):
            raise ConfigError(
                f"LISTENER_TOKEN: {len(self.listener_token)} secrets for {len(self.ws_url)} URLs in WS_URL; give one"
                " for all, or one for each"
            )

    @property
    def tokens_by_url(self) -> dict[str, str]:
        """The token for each producer, by URL."""
        tokens = self.listener_token
        return dict(zip(self.ws_url, tokens * len(self.ws_url) if len(tokens) == 1 else tokens, strict=False))


ConfigT = TypeVar("ConfigT", bound=Common)


def load(kind: type[ConfigT], environment: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> ConfigT:
    """Return all settings of `kind`. Raises ConfigError with one line for each invalid one.

    `flags` are texts by field name; None means not given. `<NAME>_FILE` names a file that holds the value.
    """
    given = {name: str(value) for name, value in (flags or {}).items() if value is not None}
    values, wrong = {}, []
    for item in fields(kind):
        variable = item.name.upper()
        try:
            text, named = _given(item.name, variable, given, environment, item.metadata["default"])
        except OSError as error:
            wrong.append(f"{variable}_FILE: cannot read {error.filename!r}: {error.strerror}")
            continue
        except UnicodeDecodeError:
            wrong.append(f"{variable}_FILE: {environment[f'{variable}_FILE']!r} is not UTF-8")
            continue
        try:
            values[item.name] = item.metadata["read"](text)
        except ValueError as error:
            shown = "" if item.metadata["secret"] else f": {text[:80]!r}"
            wrong.append(f"invalid value for {named}{shown} (expected {error})")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return kind(**values)


def _given(
    name: str, variable: str, flags: Mapping[str, str], environment: Mapping[str, str], default: str
) -> tuple[str, str]:
    """Return the text of a setting, and the name to report it by."""
    if name in flags:
        return flags[name], "--" + name.replace("_", "-")
    if variable in environment:
        return environment[variable], variable
    if file := environment.get(f"{variable}_FILE"):
        return Path(file).read_text("utf-8").strip(), f"{variable}_FILE"
    return default, variable
