"""Check `REDIS_URL`: the address of one Redis over TCP, TLS or a Unix socket."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlsplit

EXAMPLES = "redis://:password@host:6379/0, rediss://host or unix:///run/redis/redis.sock"
_OPTIONS = frozenset(("db", "username", "password", "client_name", "health_check_interval", "socket_read_size"))
_TLS_OPTIONS = frozenset(
    (
        "ssl_cert_reqs",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_check_hostname",
        "ssl_ciphers",
    )
)
_NUMBERS = ("db", "health_check_interval", "socket_read_size")
_VERIFIES = ("none", "optional", "required")


def redis_url(text: str) -> str:
    """Return the URL with a lower-case scheme.

    Raises ValueError with the expected form. It repeats nothing of `text`, which may hold a secret.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        hosts = parts.netloc.rpartition("@")[2]
    except ValueError:
        raise ValueError(f"a URL such as {EXAMPLES}") from None
    if parts.scheme not in ("redis", "rediss", "unix") or "://" not in text:
        raise ValueError(f"a URL such as {EXAMPLES}")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a URL without spaces: in a password write one as %20")
    if parts.fragment or "#" in text:
        raise ValueError("a URL without '#': in a password write it as %23")
    if "," in hosts:
        raise ValueError("the URL of one host: several, Sentinel and Cluster are not supported")
    _check_place(parts, hosts)
    _check_options(parts)
    return parts.geturl() if parts.scheme != "unix" else text.replace(text[:4], "unix", 1)


def _check_place(parts: SplitResult, hosts: str) -> None:
    if parts.scheme == "unix":
        if hosts or len(parts.path) < 2:
            raise ValueError("a Unix socket's absolute path behind three slashes: unix:///run/redis/redis.sock")
        return
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("a port from 1 to 65535")
    if not parts.hostname and not parts.path.strip("/"):
        raise ValueError("a URL with a host, such as redis://localhost:6379")
    database = parts.path.removeprefix("/").removesuffix("/")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError("a path that is the number of a database, such as redis://localhost:6379/0")


def _check_options(parts: SplitResult) -> None:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    known = _OPTIONS | (_TLS_OPTIONS if parts.scheme == "rediss" else frozenset())
    if len(options) < len(pairs) or not options.keys() <= known:
        unknown = sorted(name for name in options if name in _TLS_OPTIONS - known)
        if unknown:
            raise ValueError(f"{unknown[0]} only with rediss://, which is Redis over TLS")
        raise ValueError(f"behind the '?' of {parts.scheme}:// only {', '.join(sorted(known))}, each once")
    for name in _NUMBERS:
        if name in options and not (options[name].isascii() and options[name].isdigit()):
            raise ValueError(f"{name} as a whole number")
    if options.get("ssl_cert_reqs", "none") not in _VERIFIES:
        raise ValueError(f"ssl_cert_reqs as one of {', '.join(_VERIFIES)}")
