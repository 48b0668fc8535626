"""What every broker of dead letters must do: confirm or say why not, within a deadline, and leave nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oncecast.core.dead_letter_ports import DeadLetterBroker, DeadLetterMessage
from oncecast.core.dead_letter_url import RabbitMQAddress, SqsAddress, dead_letter_address
from oncecast.core.errors import Unavailable
from oncecast.embedded.ports import free_port
from oncecast.stores import rabbitmq as rabbitmq_store
from oncecast.stores.rabbitmq import RabbitMQ
from oncecast.stores.sqs import Sqs
from tests.support.brokers import RabbitMQServer, SqsServer, frozen

NAME = "dead letters"


def broker_of(url: str, **options: float) -> DeadLetterBroker:
    address = dead_letter_address(url)
    if isinstance(address, RabbitMQAddress):
        return RabbitMQ(address, instance="listener-a", **options)
    assert isinstance(address, SqsAddress)
    return Sqs(address, **options)


@asynccontextmanager
async def used(url: str, **options: float) -> AsyncIterator[DeadLetterBroker]:
    """A broker that leaves no task behind once it is closed."""
    before = asyncio.all_tasks()
    broker = broker_of(url, **options)
    yield broker
    await broker.close()
    await asyncio.sleep(0.05)
    left = asyncio.all_tasks() - before
    assert not left, left


def message(id: str, body: bytes = b'{"n":1}', source: str = "/shop") -> DeadLetterMessage:
    return DeadLetterMessage(source=source, id=id, body=body)


async def failure(broker: DeadLetterBroker, *messages: DeadLetterMessage) -> str:
    """What it says when it cannot be had."""
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        await (broker.send(messages) if messages else broker.open())
    assert time.monotonic() - began_s < 30
    return str(raised.value)


# --- RabbitMQ ------------------------------------------------------------------------------------------------


async def test_a_message_is_confirmed_persistent_and_carries_its_identity(rabbitmq: RabbitMQServer) -> None:
    async with used(rabbitmq.url(queue="carries")) as broker:
        assert await broker.send([message("a"), message("ü/2", source="/x")]) == [None, None]
    first, second = await rabbitmq.messages("carries")
    assert (first.body, first.headers, first.content_type) == (
        b'{"n":1}',
        {"source": "/shop", "id": "a"},
        "application/json",
    )
    assert first.delivery_mode == 2
    assert first.message_id != second.message_id
    assert second.headers == {"source": "/x", "id": "ü/2"}


async def test_the_same_id_of_two_sources_is_two_messages(rabbitmq: RabbitMQServer) -> None:
    async with used(rabbitmq.url(queue="sources")) as broker:
        assert await broker.send([message("a", source=f"/{n}") for n in range(20)]) == [None] * 20
    assert len(await rabbitmq.messages("sources")) == 20


async def test_messages_outlive_a_restart_of_rabbitmq_and_are_sent_to_the_one_that_comes_back(
    rabbitmq: RabbitMQServer,
) -> None:
    async with used(rabbitmq.url(queue="outlive")) as broker:
        assert await broker.send([message("before")]) == [None]
        rabbitmq.node.stop()
        assert "RabbitMQ at 127.0.0.1" in await failure(broker, message("during"))
        assert "Connect call failed" in await failure(broker)
        rabbitmq.node.start()
        await broker.open()
        assert await broker.send([message("after")]) == [None]
    assert [m.headers["id"] for m in await rabbitmq.messages("outlive")] == ["before", "after"]


async def test_the_default_queue_is_made_durable_and_one_that_is_there_is_taken_as_it_is(
    rabbitmq: RabbitMQServer,
) -> None:
    async with rabbitmq.channel() as channel:
        await channel.declare_queue(
            "theirs", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
    async with used(rabbitmq.url(queue="theirs")) as broker:
        assert await broker.send([message("a")]) == [None]
        await asyncio.sleep(0)
        refusals = await broker.send([message("b"), message("c")])
        assert all(refusal is not None and "the queue may be full" in refusal for refusal in refusals)
    async with used(rabbitmq.url()) as broker:
        await broker.open()
        async with rabbitmq.channel() as channel:
            await channel.declare_queue("oncecast.dead-letters", durable=True)  # refused were it anything else


async def test_an_exchange_gets_the_routing_key_and_an_unroutable_message_is_reported(
    rabbitmq: RabbitMQServer,
) -> None:
    url = rabbitmq.url(exchange="dead_letters", routing_key="dead.shop")
    async with used(url) as broker:
        assert "no exchange 'dead_letters'" in await failure(broker)
        async with rabbitmq.channel() as channel:
            exchange = await channel.declare_exchange("dead_letters", "topic", durable=True)
            [refusal] = await broker.send([message("a")])
            assert refusal is not None
            assert "cannot route it: no queue is bound for routing key 'dead.shop'" in refusal
            await (await channel.declare_queue("bound", durable=True)).bind(exchange, "dead.#")
        assert await broker.send([message("b")]) == [None]
    assert [m.headers["id"] for m in await rabbitmq.messages("bound")] == ["b"]


async def test_a_queue_that_was_deleted_meanwhile_is_declared_anew(rabbitmq: RabbitMQServer) -> None:
    async with used(rabbitmq.url(queue="goes")) as broker:
        await broker.open()
        async with rabbitmq.channel() as channel:
            await channel.queue_delete("goes")
        [refusal] = await broker.send([message("a")])
        assert refusal is not None
        assert await broker.send([message("a")]) == [None]


async def test_one_message_that_rabbitmq_does_not_bear_does_not_take_the_others_along(
    rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rabbitmq_store._message

    def bad_one(dead_letter: DeadLetterMessage) -> object:
        given = made(dead_letter)
        if dead_letter.id == "bad":
            given.expiration = None
            given.user_id = "somebody else"  # RabbitMQ closes the channel for that
        return given

    monkeypatch.setattr(rabbitmq_store, "_message", bad_one)
    async with used(rabbitmq.url(queue="bears")) as broker:
        first, bad, last = await broker.send([message("a"), message("bad"), message("c")])
        assert (first, last) == (None, None)
        assert bad is not None
        assert "user_id property set to 'somebody else'" in bad
        assert {m.headers["id"] for m in await rabbitmq.messages("bears")} == {"a", "c"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"vhost": "nope"}, "does vhost 'nope' exist, and may user 'oncecast' use it?"),
        ({"password": "hunter2"}, "ACCESS_REFUSED"),
        ({"user": "nobody", "password": "hunter2"}, "ACCESS_REFUSED"),
    ],
)
async def test_an_error_of_rabbitmq_is_reported_without_the_password(
    rabbitmq: RabbitMQServer, given: dict[str, str], said: str
) -> None:
    async with used(rabbitmq.url(**given)) as broker:
        reported = await failure(broker)
        assert said in reported
        assert not any(secret in reported + str(broker) + repr(broker) for secret in ("hunter2", rabbitmq.password))


async def test_a_frozen_rabbitmq_is_found_and_used_again_once_it_goes_on(rabbitmq: RabbitMQServer) -> None:
    async with used(rabbitmq.url(queue="frozen"), send_deadline_s=8.0) as broker:
        assert await broker.send([message("a")]) == [None]
        with frozen(rabbitmq.node):
            assert "did not answer within 8 s" in await failure(broker, message("b"))
            assert "did not answer within 8 s" in await failure(broker)
        assert await broker.send([message("c")]) == [None]


async def test_a_rabbitmq_that_freezes_while_idle_leaves_nothing_behind_when_it_is_left(
    rabbitmq: RabbitMQServer,
) -> None:
    async with used(rabbitmq.url(queue="frozen")) as broker:
        await broker.open()
        with frozen(rabbitmq.node):
            began_s = time.monotonic()
            await broker.close()
            assert time.monotonic() - began_s < 5
            await asyncio.sleep(0.1)


# --- SQS -----------------------------------------------------------------------------------------------------


async def test_a_message_reaches_sqs_with_its_identity(sqs: SqsServer) -> None:
    await sqs.create("carries")
    async with used(sqs.url("carries")) as broker:
        assert await broker.send([message(f"id-{n}") for n in range(25)]) == [None] * 25
        assert await broker.send([message("x\ufffe", '"\uffff"'.encode())]) == [None]
        assert await broker.send([message("not utf-8", b'"\xff"')]) == [None]
    found = {m["MessageAttributes"]["id"]["StringValue"]: m for m in await sqs.messages("carries")}
    assert found.pop("not utf-8")["Body"] == '"\ufffd"'
    assert found.keys() == {*(f"id-{n}" for n in range(25)), "x\\ufffe"}
    assert found["id-1"]["Body"] == '{"n":1}'
    assert found["id-1"]["MessageAttributes"]["source"]["StringValue"] == "/shop"
    assert found["x\\ufffe"]["Body"] == '"\\uffff"'


async def test_a_fifo_queue_drops_a_message_that_is_sent_twice_and_no_dead_letter_waits_for_another(
    sqs: SqsServer,
) -> None:
    await sqs.create("dead_letters.fifo", FifoQueue="true")
    async with used(sqs.url("dead_letters.fifo")) as broker:
        for _ in range(2):
            assert await broker.send([message("a"), message("b")]) == [None, None]
    found = await sqs.messages("dead_letters.fifo")
    assert sorted(m["MessageAttributes"]["id"]["StringValue"] for m in found) == ["a", "b"]
    assert len({m["Attributes"]["MessageGroupId"] for m in found}) == 2


async def test_long_messages_share_no_batch_that_would_be_too_long(sqs: SqsServer) -> None:
    await sqs.create("long", MaximumMessageSize="262144")
    async with used(sqs.url("long")) as broker:
        await broker.open()
        assert broker.max_bytes == 260 * 1024 - 6 * 1024
        longest = b'"' + b"x" * (broker.max_bytes - 2) + b'"'
        assert await broker.send([message(f"{n}", longest) for n in range(12)]) == [None] * 12
        assert len(await sqs.messages("long")) == 12


async def test_one_message_that_sqs_refuses_does_not_take_the_others_along(sqs: SqsServer) -> None:
    await sqs.create("small", MaximumMessageSize="2048")
    async with used(sqs.url("small")) as broker:
        first, refused, last = await broker.send([message("a"), message("b", b"x" * 300_000), message("c")])
        assert (first, last) == (None, None)
        assert refused is not None
    assert len(await sqs.messages("small")) == 2


async def test_a_missing_queue_is_reported_and_used_once_it_exists(sqs: SqsServer) -> None:
    async with used(sqs.url("not-yet")) as broker:
        assert "queue not-yet of SQS in eu-central-1: there is no such queue" in await failure(broker)
        await sqs.create("not-yet")
        assert await broker.send([message("a")]) == [None]
        async with sqs.client() as client:
            await client.delete_queue(QueueUrl=(await client.get_queue_url(QueueName="not-yet"))["QueueUrl"])
        assert "there is no such queue" in await failure(broker, message("b"))


async def test_an_sqs_that_is_away_or_frozen_is_found(sqs: SqsServer) -> None:
    await sqs.create("away")
    async with used(f"sqs://eu-central-1/away?endpoint=http://127.0.0.1:{free_port()}") as broker:
        assert "Could not connect to the endpoint URL" in await failure(broker)
    async with used(sqs.url("away"), send_deadline_s=5.0) as broker:
        assert await broker.send([message("a")]) == [None]
        with frozen(sqs.process):
            assert "no answer within 5 s" in await failure(broker, message("b"))
        assert await broker.send([message("c")]) == [None]


async def test_missing_credentials_are_reported_by_name(sqs: SqsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    async with used(sqs.url("any")) as broker:
        assert "AWS_ACCESS_KEY_ID" in await failure(broker)
