"""The settings of a listener's sessions, whatever the server, database and role have configured.

In its own sessions, a listener fixes every setting that could change a result. Sessions for handlers keep what a role
or database has configured for the application's SQL, such as `search_path` and `TimeZone`. See decision 032.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SERVER_VERSION_OF = {"transaction_timeout": 170000}
"""The first server version of a setting that the oldest supported server does not have."""

EVERY_SESSION: Mapping[str, str] = {
    # The formats that psycopg reads.
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    # Transactions may write.
    "default_transaction_read_only": "off",
    "exit_on_error": "off",
    # The listener has time-outs of its own.
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    # Nobody reads notices.
    "client_min_messages": "warning",
}
"""Settings of all sessions."""

OWN_SESSION: Mapping[str, str] = {
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "extra_float_digits": "1",
    "transform_null_equals": "off",
    "row_security": "on",
    "check_function_bodies": "on",
    "default_table_access_method": "heap",
    "plan_cache_mode": "auto",
    "jit": "off",
}
"""Further settings of sessions in which no handler runs."""

READABLE = "select " + ", ".join(
    f"pg_catalog.set_config('{name}', '{value}', false)"
    for name, value in {
        **{name: EVERY_SESSION[name] for name in ("client_encoding", "DateStyle", "IntervalStyle")},
        "extra_float_digits": "1",
    }.items()
)
"""A statement for the sessions of tools, so that psycopg can read every result."""

_SYNCHRONOUS_COMMIT = (
    "pg_catalog.set_config('synchronous_commit', case pg_catalog.current_setting('synchronous_commit')"
    " when 'remote_apply' then 'remote_apply' else 'on' end, false)"
)
"""A commit is at least durable; `remote_apply` of a role or database is kept."""
_SEARCH_PATH = (
    "pg_catalog.set_config('search_path', pg_catalog.concat_ws("
    "', ', 'pg_catalog', nullif(pg_catalog.current_setting('search_path'), ''), 'pg_temp'), false)"
)
"""Built-in names come first; triggers of the application find its own names after them."""
_STARTED_AT = "extract(epoch from pg_catalog.pg_postmaster_start_time())::pg_catalog.text"


def set_up_statement(
    settings: Mapping[str, str], server_version: int, *, for_handlers: bool
) -> tuple[str, Sequence[str]]:
    """Return the statement that sets up a session and its values.

    Its last columns are the start time of the server (Unix seconds, as text) and the session's process id.
    """
    fixed = EVERY_SESSION if for_handlers else {**EVERY_SESSION, **OWN_SESSION}
    chosen = {
        name: value
        for name, value in {**fixed, **settings}.items()
        if server_version >= SERVER_VERSION_OF.get(name, 0)
    }
    calls = [f"pg_catalog.set_config('{name}', %s, false)" for name in chosen]
    calls += [
        _SYNCHRONOUS_COMMIT,
        *([] if for_handlers else [_SEARCH_PATH]),
        _STARTED_AT,
        "pg_catalog.pg_backend_pid()",
    ]
    return "select " + ", ".join(calls), list(chosen.values())
