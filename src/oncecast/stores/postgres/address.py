"""Check `DATABASE_URL`: a URL or a string of keywords and values, as libpq reads them."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

EXAMPLES = "postgres://user:password@host:5432/database or 'host=… dbname=… user=…'"
_DRIVER = re.compile(r"^postgres(?:ql)?(?:\+[a-z0-9]+)?://", re.IGNORECASE)
_KEYWORDS = re.compile(r"^[a-z_]+\s*=")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
}


def database_url(text: str) -> str:
    """Return the address for libpq, without a driver's name as in SQLAlchemy's `postgresql+psycopg://`.

    Raises ValueError with the expected form. It repeats nothing of `text`, which may hold a secret.
    """
    text = _DRIVER.sub("postgresql://", text.strip())
    if not (text.startswith("postgresql://") or _KEYWORDS.match(text)):
        raise ValueError(f"an address such as {EXAMPLES}")
    try:
        values = conninfo_to_dict(text)
        make_conninfo(text)
    except psycopg.Error as error:
        unknown = re.search(
            r"invalid (?:URI query parameter|connection option):? *\"?([A-Za-z_]{1,40})\"?", str(error)
        )
        hint = f"; {unknown[1]} is no parameter of libpq" if unknown else ", with %-codes for special characters"
        raise ValueError(f"an address such as {EXAMPLES}{hint}") from None
    ports = str(values.get("port") or "").split(",")
    if not all(port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
        raise ValueError("a port from 1 to 65535")
    for name, choices in _CHOICES.items():
        if (value := values.get(name)) is not None and value not in choices:
            raise ValueError(f"{name} as one of {', '.join(choices)}")
    if not any(values.get(name) for name in ("host", "hostaddr", "dbname", "service")):
        raise ValueError(f"an address with a host or a database, such as {EXAMPLES}")
    return text
