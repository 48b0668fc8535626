"""RabbitMQ as the broker for dead letters: persistent, confirmed messages, none dropped without a queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, SSLOptions
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPChannelError,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    InvalidFrameError,
    PublishError,
)

from oncecast.core.dead_letter_ports import DeadLetterMessage
from oncecast.core.dead_letter_url import RabbitMQAddress
from oncecast.core.errors import Unavailable

# Telemetry events report these errors once, and without the address.
for _name in ("aio_pika", "aiormq"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

MAX_BYTES = 16 * 1024**2 - 1024
"""RabbitMQ's default limit (128 MiB before version 4)."""
OPEN_DEADLINE_S = 8.0
SEND_DEADLINE_S = 20.0
CLOSE_DEADLINE_S = 3.0
HEARTBEAT_S = 10

_CHANNEL_CLOSED = (AMQPChannelError, ChannelInvalidStateError)

T = TypeVar("T")


class RabbitMQ:
    """A DeadLetterBroker for RabbitMQ, with one connection that is replaced after any error."""

    def __init__(self, address: RabbitMQAddress, *, instance: str, send_deadline_s: float = SEND_DEADLINE_S) -> None:
        self._address = address
        self._send_deadline_s = send_deadline_s
        self._name = f"oncecast {instance}"
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None

    def __str__(self) -> str:
        return str(self._address)

    @property
    def max_bytes(self) -> int:
        """The longest body that RabbitMQ accepts by default."""
        return MAX_BYTES

    async def open(self) -> None:
        """Connect unless connected. Declares a missing queue as durable; an exchange must exist."""
        if self._channel is not None and not self._channel.is_closed:
            return
        await self.close()
        async with self._within(OPEN_DEADLINE_S):
            self._connection = await self._done(self._connect())
            await self._open_channel()

    async def _connect(self) -> AbstractConnection:
        at = self._address
        return await aio_pika.connect(
            host=at.host,
            port=at.port,
            login=at.user,
            password=at.password,
            virtualhost=at.vhost,
            ssl=at.tls,
            ssl_options=SSLOptions(**at.tls_files) if at.tls_files else None,  # type: ignore[typeddict-item]
            client_properties={"connection_name": self._name},
            heartbeat=HEARTBEAT_S,
        )

    async def _open_channel(self) -> None:
        try:
            channel = await self._done(self._new_channel())
            if self._address.queue is None:
                self._exchange = await self._done(channel.get_exchange(self._address.exchange))
            else:
                channel = await self._with_queue(channel, self._address.queue)
                self._exchange = channel.default_exchange
        except AMQPChannelError as error:
            raise Unavailable(self._refusal(error)) from error
        self._channel = channel

    async def _with_queue(self, channel: AbstractChannel, queue: str) -> AbstractChannel:
        """Return a channel with the queue: an existing queue is used as declared, a missing one is declared."""
        try:
            await self._done(channel.get_queue(queue))
        except ChannelNotFoundEntity:
            channel = await self._done(self._new_channel())
            await self._done(channel.declare_queue(queue, durable=True))
        return channel

    async def _new_channel(self) -> AbstractChannel:
        if self._connection is None:
            raise ConnectionError("not connected")
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        return channel

    async def send(self, messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        """Publish `messages`; return for each None if RabbitMQ confirmed it, else the reason of its refusal."""
        async with self._within(self._send_deadline_s):
            await self.open()
            answers = await self._publish(messages)
            if len(messages) > 1 and any(isinstance(answer, _CHANNEL_CLOSED) for answer in answers):
                # A message that RabbitMQ refuses closes the channel, which makes the other messages fail too.
                answers = [await self._publish_alone(message) for message in messages]
        refusals = [None if answer is None else self._refusal(answer) for answer in answers]
        if any(answer is not None for answer in answers):
            await self.close()  # the queue may be gone: `open` checks
        return refusals

    async def _publish_alone(self, message: DeadLetterMessage) -> Exception | None:
        await self.open()
        [answer] = await self._publish([message])
        return answer

    async def _publish(self, messages: Sequence[DeadLetterMessage]) -> list[Exception | None]:
        """Return for each message None, or the error with which RabbitMQ refuses it. Raises Unavailable otherwise."""
        exchange = self._exchange
        if exchange is None:
            raise Unavailable(f"{self}: the connection was closed")
        answers = await asyncio.gather(
            *(exchange.publish(_message(message), self._address.routing_key) for message in messages),
            return_exceptions=True,
        )
        return [self._refusal_or_raise(answer, alone=len(messages) == 1) for answer in answers]

    def _refusal_or_raise(self, answer: object, *, alone: bool) -> Exception | None:
        if not isinstance(answer, BaseException):
            return None
        if isinstance(answer, DeliveryError | AMQPChannelError):
            return answer
        if isinstance(answer, ChannelInvalidStateError) and not alone:
            return answer  # another message has closed the channel
        raise self._translate(answer) from answer

    async def close(self) -> None:
        """Close the connection, within CLOSE_DEADLINE_S."""
        connection, self._connection, self._channel, self._exchange = self._connection, None, None, None
        if connection is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await asyncio.gather(connection.close(), return_exceptions=True)

    # --- errors --------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _within(self, deadline_s: float) -> AsyncIterator[None]:
        """Limit the block to `deadline_s`, and close the connection after an error."""
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError as error:
            await self.close()
            raise Unavailable(f"{self} did not answer within {deadline_s:g} s") from error
        except Unavailable:
            await self.close()
            raise

    async def _done(self, operation: Awaitable[T]) -> T:
        """Return the result of `operation`. Raises AMQPChannelError, or Unavailable for other errors.

        The library cancels tasks that wait for a broken connection, which must not look like a cancellation of the
        caller.
        """
        [result] = await asyncio.gather(operation, return_exceptions=True)
        if not isinstance(result, BaseException):
            return result
        if isinstance(result, AMQPChannelError):
            raise result
        raise self._translate(result) from result

    def _translate(self, error: BaseException) -> BaseException:
        if isinstance(error, InvalidFrameError) and "Connection.Close" in str(error):  # the reason is lost
            at = self._address
            return Unavailable(f"{self} refuses: does vhost {at.vhost!r} exist, and may user {at.user!r} use it?")
        if isinstance(error, asyncio.CancelledError):
            return Unavailable(f"{self}: the connection broke")
        if isinstance(error, (*CONNECTION_EXCEPTIONS, ValueError)):  # ValueError: such as a server without confirms
            return Unavailable(f"{self}: {_words(error)}")
        return error

    def _refusal(self, error: Exception) -> str:
        if isinstance(error, PublishError):
            return f"{self} cannot route it: no queue is bound for routing key {self._address.routing_key!r}"
        if isinstance(error, DeliveryError):
            return f"{self} did not accept it: the queue may be full"
        return f"{self}: {_words(error)}"


def _message(dead_letter: DeadLetterMessage) -> aio_pika.Message:
    return aio_pika.Message(
        dead_letter.body,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=dead_letter.digest,
        type="oncecast.dead-letter",
        app_id="oncecast",
        headers={"source": dead_letter.source, "id": dead_letter.id},
    )


def _words(error: BaseException) -> str:
    """Return the error text of RabbitMQ or the operating system."""
    texts = [text for text in error.args if isinstance(text, str) and text]
    return texts[-1] if texts else type(error).__name__
