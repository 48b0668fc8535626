"""Parse `DEAD_LETTER_URL`, the address of the broker for dead letters. The `str` of an address hides its password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

DEFAULT_QUEUE = "oncecast.dead-letters"
EXAMPLES = "amqp://user:password@host/vhost?queue=NAME or sqs://REGION/QUEUE_NAME"
NAME_MAX_BYTES = 255
"""AMQP's limit for the names of queues and exchanges."""

_PORTS = {"amqp": 5672, "amqps": 5671}
_TLS_FILES = ("cafile", "certfile", "keyfile")
_REGION = re.compile(r"[a-z]{2}[a-z0-9-]*-[0-9]+")
_SQS_QUEUE = re.compile(r"(?=.{1,80}$)[A-Za-z0-9_-]+(\.fifo)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQAddress:
    """A queue, or an exchange with a routing key, of RabbitMQ. `tls_files` are paths by their names in the URL."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool
    queue: str | None
    exchange: str
    routing_key: str
    tls_files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        place = f"queue {self.queue}" if self.queue is not None else f"exchange {self.exchange}"
        return f"{place} of RabbitMQ at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsAddress:
    """A queue of Amazon SQS, or of a compatible service at `endpoint`."""

    region: str
    queue: str
    endpoint: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine, so that no proxy is used."""
        host = urlsplit(self.endpoint or "").hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def is_fifo(self) -> bool:
        """Whether the queue keeps an order and removes duplicates."""
        return self.queue.endswith(".fifo")

    def __str__(self) -> str:
        return f"queue {self.queue} of SQS in {self.region}"


def dead_letter_address(text: str) -> RabbitMQAddress | SqsAddress | None:
    """Return the address in a `DEAD_LETTER_URL`, or None for an empty one.

    Raises ValueError with the expected form. It repeats nothing of `text`, which may hold a secret.
    """
    if not (text := text.strip()):
        return None
    try:
        parts = urlsplit(text)
    except ValueError:  # its text may repeat what was given
        raise ValueError(f"a URL such as {EXAMPLES}") from None
    if parts.fragment:
        raise ValueError("a URL without '#': in a password write it as %23")
    if parts.scheme in _PORTS:
        return _rabbitmq(parts)
    if parts.scheme == "sqs":
        return _sqs(parts)
    raise ValueError(f"a URL such as {EXAMPLES}")


def _rabbitmq(parts: SplitResult) -> RabbitMQAddress:
    tls = parts.scheme == "amqps"
    options = _options(parts, ("queue", "exchange", "routing_key", *(_TLS_FILES if tls else ())))
    queue, exchange = options.get("queue"), options.get("exchange")
    if not parts.hostname:
        raise ValueError("a URL with a host, such as amqp://user:password@host/vhost")
    if queue is not None and (exchange is not None or "routing_key" in options):
        raise ValueError("either ?queue=NAME or ?exchange=NAME&routing_key=KEY, not both")
    if "routing_key" in options and exchange is None:
        raise ValueError("a routing_key only together with an exchange; to send to a queue write ?queue=NAME")
    if exchange is None:
        queue = queue if queue is not None else DEFAULT_QUEUE
    routing_key = queue if queue is not None else options.get("routing_key", "")
    for name in (queue, exchange, routing_key):
        if name is not None and len(name.encode()) > NAME_MAX_BYTES:
            raise ValueError(f"names of at most {NAME_MAX_BYTES} bytes")
    return RabbitMQAddress(
        host=parts.hostname,
        port=_port(parts) or _PORTS[parts.scheme],
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password if parts.password is not None else "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        tls=tls,
        queue=queue,
        exchange=exchange or "",
        routing_key=routing_key,
        tls_files={name: options[name] for name in _TLS_FILES if name in options},
    )


def _sqs(parts: SplitResult) -> SqsAddress:
    options = _options(parts, ("endpoint",))
    region, queue = parts.netloc, parts.path[1:]
    if "@" in region:
        raise ValueError("no credentials in a URL of SQS: they come from AWS_ACCESS_KEY_ID and so on")
    if not _REGION.fullmatch(region) or not _SQS_QUEUE.fullmatch(queue):
        raise ValueError("a URL such as sqs://eu-central-1/QUEUE_NAME, with a region and a queue's name")
    endpoint = options.get("endpoint")
    if endpoint is not None:
        given = urlsplit(endpoint)
        if given.scheme not in ("http", "https") or not given.hostname or "@" in given.netloc:
            raise ValueError("an endpoint such as http://127.0.0.1:9324")
    return SqsAddress(region=region, queue=queue, endpoint=endpoint)


def _options(parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    """Return the query parameters: each known name once, and not empty."""
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs) or not options.keys() <= set(known) or not all(options.values()):
        raise ValueError(f"behind the '?' of {parts.scheme}:// only {', '.join(known)}, each once and not empty")
    return options


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("a port from 1 to 65535")
    return port
