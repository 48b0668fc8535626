"""Listeners do their work on a database whose settings are unlike the defaults, without an alarm."""

from __future__ import annotations

from typing import Any

import httpx2
import psycopg

from oncecast import Event, Publisher
from tests.support.stacks import StackOf, rows, until

SETTINGS = {
    "DateStyle": "'SQL, MDY'",
    "IntervalStyle": "'iso_8601'",
    "idle_session_timeout": "'500ms'",
    "default_transaction_read_only": "on",
    "TimeZone": "'Asia/Tokyo'",
}
IDLE_FOR_LONG = """
select count(*) > 0 from pg_stat_activity
where application_name like 'oncecast %' and state = 'idle'
    and state_change < clock_timestamp() - interval '2 seconds'
"""


async def test_settings_of_a_database_cost_no_event_no_latency_and_no_alarm(stack_of: StackOf) -> None:
    async with (
        stack_of(environment={"EVENT_RETRY_DELAY": "100ms"}) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"], timeout=20) as client,
    ):
        async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            for name, value in SETTINGS.items():
                await connection.execute(f"alter database oncecast set {name} = {value}".encode())
        await stack.restart_listeners()
        await publisher.publish(Event.new("oncecast.failing", {"fails": True}, id="dies"))

        async def ended() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await client.get("/api/events")).raise_for_status().json()["events"]
            return found

        async def dead() -> list[dict[str, Any]]:
            return [one for one in await ended() if one["status"] == "dead"]

        [dead_letter] = await until(dead)
        assert dead_letter["stored_at"].endswith("Z")
        dead_letters = (await client.get("/api/dead-letters")).raise_for_status().json()["dead_letters"]
        assert [one["id"] for one in dead_letters] == ["dies"]

        async def sessions_were_idle() -> bool:
            return (await rows(stack, IDLE_FOR_LONG))[0][0] is True

        await until(sessions_were_idle)
        await publisher.publish(Event.new("tick", id="after a pause"))

        async def stored() -> bool:
            return any(one["event"]["id"] == "after a pause" for one in await ended())

        await until(stored)
        logs = "".join(log.read_text() for log in stack.data.glob("listener-*/output.log"))
        assert "unavailable" not in logs, logs[-3_000:]
        assert "idle-session timeout" not in logs, logs[-3_000:]
