"""DEAD_LETTER_URL with real listeners, PostgreSQL and brokers: each dead letter arrives, whatever fails."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from oncecast import Event, Publisher
from oncecast.core.dead_letter_ports import OTHERS_AFTER_S
from oncecast.embedded import Stack
from tests.support.brokers import RabbitMQServer, SqsServer, body_of, frozen
from tests.support.stacks import StackOf, drained, rows, until

QUICK = {"EVENT_RETRY_DELAY": "20ms", "EVENT_ATTEMPTS": "1", "DRAIN_TIMEOUT": "3s"}


def failing(*ids: str, **data: Any) -> list[Event]:
    return [Event.new("oncecast.failing", {"fails": True, **data}, id=id_) for id_ in ids]


async def health(stack: Stack, name: str = "listener-a") -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=stack.listener_urls[name], timeout=10) as client:
        answer: dict[str, Any] = (await client.get("/health")).json()
        return answer


async def are_dead(stack: Stack, count: int) -> None:
    async def dead() -> bool:
        return await rows(stack, "select count(*) from oncecast.dead_letters") == [(count,)]

    await until(dead)


async def are_sent(stack: Stack, count: int, within_s: float = 90.0) -> None:
    async def sent() -> bool:
        return await rows(stack, "select count(*) from oncecast.dead_letters where sent_at is not null") == [(count,)]

    await until(sent, within_s)


async def is_ready(stack: Stack, name: str = "listener-a") -> None:
    async def ready() -> bool:
        return bool((await health(stack, name))["parts"]["broker"]["status"] == "ok")

    await until(ready)


def said(stack: Stack, text: str, name: str = "listener-a") -> int:
    return (stack.folder(name) / "output.log").read_text().count(text)


async def until_said(stack: Stack, text: str) -> None:
    async def is_said() -> int:
        return said(stack, text)

    await until(is_said)


# --- RabbitMQ ------------------------------------------------------------------------------------------------


async def test_each_dead_letter_arrives_as_it_stands_in_the_file(stack_of: StackOf, rabbitmq: RabbitMQServer) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(queue="arrives")}
    async with stack_of(listeners=2, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack, "listener-a")
        await is_ready(stack, "listener-b")
        ids = [f"f{n}" for n in range(50)]
        await publisher.publish_many([*failing(*ids), Event.new("tick")])
        await are_sent(stack, 50)
        await drained(stack)
        messages = [body_of(message.body) for message in await rabbitmq.messages("arrives")]
        lines = [
            body_of(line)
            for name in ("listener-a", "listener-b")
            if (file := stack.folder(name) / "failed_events.log").exists()
            for line in file.read_text().splitlines()
        ]
        assert sorted(messages, key=str) == sorted(lines, key=str)
        assert sorted(message["event"]["id"] for message in messages) == sorted(ids)
        assert {message["instance"] for message in messages} <= {"listener-a", "listener-b"}


async def test_while_the_broker_is_away_everything_goes_on_and_afterwards_all_arrive(
    stack_of: StackOf, rabbitmq: RabbitMQServer
) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(queue="away")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack)
        await publisher.publish_many(failing("before"))
        await are_sent(stack, 1)
        rabbitmq.node.stop()
        ids = [f"f{n:02}" for n in range(60)]
        await publisher.publish_many([*failing(*ids), *(Event.new("tick", n) for n in range(100))])
        await are_dead(stack, 61)
        await drained(stack)

        async def is_reported() -> bool:
            now = await health(stack)
            parts = now["parts"]
            states = (parts["broker"]["status"], parts["database"]["status"])
            return bool((states, now["unsent"]) == (("down", "ok"), 60))

        await until(is_reported)

        async def cursor_has_gone_on() -> bool:
            return int((await health(stack))["producers"][0]["cursor"].rpartition(":")[2]) == 161

        await until(cursor_has_gone_on)
        assert len((stack.folder("listener-a") / "failed_events.log").read_text().splitlines()) == 61
        async with httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"]) as client:
            metrics = (await client.get("/metrics")).text
        assert 'oncecast_dead_letters_unsent{group="oncecast"} 60.0' in metrics
        assert 'oncecast_dependency_up{dependency="broker"} 0.0' in metrics
        rabbitmq.node.start()
        await are_sent(stack, 61)
        found = [str(message.headers["id"]) for message in await rabbitmq.messages("away")]
        assert sorted(found) == sorted(["before", *ids])
        assert said(stack, "Dead letters cannot be sent") == 1
        assert said(stack, "Broker of dead letters ready") == 2

        async def nothing_is_left() -> bool:
            return bool((await health(stack))["unsent"] == 0)

        await until(nothing_is_left)


async def test_a_listener_that_is_killed_between_row_and_message_sends_it_when_it_comes_back(
    stack_of: StackOf, rabbitmq: RabbitMQServer
) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(queue="killed")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack)
        rabbitmq.node.stop()
        await publisher.publish_many(failing("a", "b", "c"))
        await are_dead(stack, 3)
        await stack.kill("listener-a")
        rabbitmq.node.start()
        await stack.start("listener-a")
        await are_sent(stack, 3)
        assert {m.headers["id"] for m in await rabbitmq.messages("killed")} == {"a", "b", "c"}


async def test_dead_letters_of_a_listener_that_never_restarts_are_forwarded_by_another(
    stack_of: StackOf, rabbitmq: RabbitMQServer
) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(queue="never")}
    async with stack_of(listeners=2, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack, "listener-b")
        await stack.stop("listener-b")
        rabbitmq.node.stop()
        await publisher.publish_many(failing("a", "b", "c"))
        await are_dead(stack, 3)
        await stack.kill("listener-a")
        rabbitmq.node.start()
        await stack.start("listener-b")
        await is_ready(stack, "listener-b")
        assert (await health(stack, "listener-b"))["unsent"] == 3
        async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
            older = f"interval '{OTHERS_AFTER_S + 1} seconds'"
            await connection.execute(
                f"update oncecast.dead_letters set died_at = died_at - {older}, send_claimed_at = null"
            )
            await connection.execute("update oncecast.sending set began_at = began_at - interval '1 hour'")
        await are_sent(stack, 3)
        messages = [body_of(m.body) for m in await rabbitmq.messages("never")]
        assert {(m["event"]["id"], m["instance"]) for m in messages} == {(id_, "listener-a") for id_ in "abc"}


async def test_a_frozen_broker_delays_neither_work_nor_the_stop_and_its_dead_letters_arrive_later(
    stack_of: StackOf, rabbitmq: RabbitMQServer
) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(queue="freezes")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack)
        with frozen(rabbitmq.node):
            await publisher.publish_many([*failing("a"), *(Event.new("tick", n) for n in range(100))])
            await are_dead(stack, 1)
            await drained(stack)
            async with asyncio.timeout(120):
                await stack.stop("listener-a")
            assert stack.processes["listener-a"].returncode == 0
        await stack.start("listener-a")
        async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
            await connection.execute("update oncecast.dead_letters set send_claimed_at = null")  # a minute later
        await are_sent(stack, 1)
        assert "a" in {m.headers["id"] for m in await rabbitmq.messages("freezes")}


async def test_a_drain_sends_what_has_just_died(stack_of: StackOf, rabbitmq: RabbitMQServer) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(queue="drain")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack)
        await publisher.publish_many(failing(*(f"f{n}" for n in range(200))))
        await are_dead(stack, 200)
        await stack.stop("listener-a")
        assert await rows(stack, "select count(*) from oncecast.dead_letters where sent_at is null") == [(0,)]
        assert len(await rabbitmq.messages("drain")) == 200


async def test_a_refusal_by_the_broker_is_reported_without_the_password(
    stack_of: StackOf, rabbitmq: RabbitMQServer
) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": rabbitmq.url(password="hunter2hunter2", vhost="nope")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await until_said(stack, "ACCESS_REFUSED - Login was refused")
        await publisher.publish_many([*failing("a"), Event.new("tick")])
        await drained(stack)
        found = await health(stack)
        assert (found["status"], found["parts"]["broker"]["status"]) == ("degraded", "down")
        assert "DEAD_LETTER_URL" in found["remedy"]
        assert said(stack, "hunter2") == 0


# --- SQS -----------------------------------------------------------------------------------------------------


async def test_each_dead_letter_arrives_in_sqs_once_there_is_its_queue_a_large_one_without_its_data(
    stack_of: StackOf, sqs: SqsServer
) -> None:
    environment = {**QUICK, "DEAD_LETTER_URL": sqs.url("shop-letters")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await until_said(stack, "queue shop-letters of SQS in eu-central-1: there is no such queue")
        ids = [f"f{n}" for n in range(30)]
        await publisher.publish_many([*failing(*ids), *failing("large", text="x" * 600_000)])
        await are_dead(stack, 31)
        await sqs.create("shop-letters", MaximumMessageSize="262144")
        await are_sent(stack, 31)
        found = {
            m["MessageAttributes"]["id"]["StringValue"]: body_of(m["Body"])
            for m in await sqs.messages("shop-letters")
        }
        assert found.keys() == {*ids, "large"}
        assert found["f1"]["event"]["data"] == {"fails": True}
        assert "data" not in found["large"]["event"]
        assert "oncecast dead-letters show --source /oncecast -- large" in found["large"]["note"]
        assert said(stack, "hunter2") == 0


async def test_an_sqs_that_is_stopped_holds_nothing_back_and_gets_all_later(
    stack_of: StackOf, sqs: SqsServer
) -> None:
    await sqs.create("stops.fifo", FifoQueue="true")
    environment = {**QUICK, "DEAD_LETTER_URL": sqs.url("stops.fifo")}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_ready(stack)
        with frozen(sqs.process):
            await publisher.publish_many([*failing("a", "b"), *(Event.new("tick", n) for n in range(100))])
            await are_dead(stack, 2)
            await drained(stack)
            await until_said(stack, "Dead letters cannot be sent")
        await are_sent(stack, 2)
        found = {m["MessageAttributes"]["id"]["StringValue"] for m in await sqs.messages("stops.fifo")}
        assert found == {"a", "b"}


# --- the start -----------------------------------------------------------------------------------------------


async def test_without_its_library_the_start_fails_with_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    for url, module, extra in (
        ("amqp://u:hunter2@localhost", "aio_pika", "rabbitmq"),
        ("sqs://eu-central-1/letters", "aiobotocore", "sqs"),
    ):
        code = f"import sys; sys.modules[{module!r}] = None; from oncecast.cli import main; main()"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, "listener", "--port", "0"),
            cwd=tmp_path,
            env={**os.environ, "DEAD_LETTER_URL": url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            out, err = await process.communicate()
        assert (process.returncode, out, err.decode().splitlines()) == (
            1,
            b"",
            [f"oncecast: DEAD_LETTER_URL: {module} is not installed: pip install 'oncecast[{extra}]'"],
        )
