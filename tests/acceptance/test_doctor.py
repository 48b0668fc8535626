"""`oncecast doctor` finds what is wrong with settings, machine and servers, and never prints a password."""

from __future__ import annotations

import json
from typing import Any

from tests.acceptance.test_recovery import oncecast
from tests.support.stacks import StackOf, drained


def findings(out: str) -> dict[str, dict[str, Any]]:
    return {found["what"]: found for found in map(json.loads, out.splitlines())}


async def test_all_is_well_with_a_running_stack(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        await drained(stack)
        status, out, _ = await oncecast("doctor", "--data", str(stack.data), "--json")
        found = findings(out)
        wrong = {what: each for what, each in found.items() if each["verdict"] != "ok" and what != "disk"}
        assert wrong == {}
        assert {
            "PostgreSQL",
            "pooling",
            "schema",
            "fsync",
            "Redis",
            "eviction",
            "commands",
            "journal",
        } <= found.keys()
        assert status == max({"ok": 0, "warning": 1, "error": 2}[each["verdict"]] for each in found.values())
        password = stack.database_url.split(":")[2].partition("@")[0]
        assert password not in out


async def test_each_server_that_is_away_is_an_error_with_what_to_do(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        await drained(stack)
        for name in ("postgres", "valkey", "producer"):
            await stack.stop(name)
        status, out, _ = await oncecast("doctor", "--data", str(stack.data), "--json")
        found = findings(out)
        away = [found["PostgreSQL"], found["Redis"], *(found[what] for what in found if what.startswith("producer"))]
        assert status == 2
        assert [each["verdict"] for each in away] == ["error"] * 3
        assert all(each["remedy"] for each in away)
        password = stack.database_url.split(":")[2].partition("@")[0]
        assert password not in out


async def test_the_settings_of_postgresql_that_endanger_the_promise_are_errors(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        await drained(stack)
        for text in (
            "alter system set fsync = off",
            "alter system set full_page_writes = off",
            "select pg_reload_conf()",
        ):
            status, _, error = await oncecast("sql", text, "--data", str(stack.data))
            assert status == 0, error
        status, out, _ = await oncecast("doctor", "--data", str(stack.data), "--json")
        found = findings(out)
        assert (status, found["fsync"]["verdict"], found["full_page_writes"]["verdict"]) == (2, "error", "error")
        assert "power cut" in found["fsync"]["remedy"]


async def test_a_wrong_setting_is_named_without_a_stack_trace(monkeypatch: Any) -> None:
    monkeypatch.setenv("DB_POOL", "many")
    monkeypatch.setenv("PORT", "x")
    status, out, error = await oncecast("doctor", "--json")
    wrong = [json.loads(line) for line in out.splitlines() if '"settings"' in line]
    assert (status, "Traceback" in error) == (2, False)
    assert sorted(each["detail"].partition(":")[0] for each in wrong) == [
        "invalid value for DB_POOL",
        "invalid value for PORT",
    ]
