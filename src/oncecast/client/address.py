"""Derive a producer's URLs from the address in the settings, such as `http://host:8080`."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from oncecast.core.errors import ConfigError

_SECURE = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


def publish_url(producer: str) -> str:
    """Return the URL to post events to. Raises ConfigError if `producer` is not an HTTP or WebSocket address."""
    parts = _split(producer)
    return f"{_SECURE[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}/events"


def broadcast_url(producer: str) -> str:
    """Return the URL of the broadcast. Raises ConfigError if `producer` is not an HTTP or WebSocket address."""
    parts = _split(producer)
    scheme = "wss" if _SECURE[parts.scheme] == "https" else "ws"
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/"


def shown(producer: str) -> str:
    """Return the address without user and password, for logs and errors."""
    parts = _split(producer)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def without_credentials(url: str) -> str:
    """Return any URL without user and password, for logs and `/health`."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def is_loopback(producer: str) -> bool:
    """Return whether the producer is on this machine, so that no proxy may be used."""
    return is_loopback_host(_split(producer).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether `host` is localhost or an address of the loopback interface."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def authorization(token: str | None) -> dict[str, str]:
    """Return the headers for `token`. Raises ConfigError, which never contains the token, if it is not valid."""
    if not token:
        return {}
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("invalid token: it may contain only printable ASCII characters without spaces")
    return {"Authorization": f"Bearer {token}"}


def _split(producer: str) -> SplitResult:
    producer = producer.strip()
    try:
        parts = urlsplit(producer)
        is_known = parts.scheme in _SECURE and bool(parts.hostname) and parts.port != 0
        fits = is_known and not (parts.query or parts.fragment or any(not c.isprintable() for c in producer))
    except ValueError:
        fits = False
    if not fits or " " in parts.netloc:
        # An invalid address may contain a password: repeat only the part after the last @.
        raise ConfigError(
            f"a producer's address is like http://localhost:8080, not {producer.rpartition('@')[2][:80]!r}"
        )
    return parts
