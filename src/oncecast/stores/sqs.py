"""Amazon SQS as the broker of dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from oncecast.core.dead_letter_ports import DeadLetterMessage
from oncecast.core.dead_letter_url import SqsAddress
from oncecast.core.errors import Unavailable

# What its libraries log is reported as facts, once.
for _name in ("aiobotocore", "botocore"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

BATCH_MESSAGES = 10
"""SQS's own limit."""
MAX_BYTES = 256 * 1024
"""Of a message or a batch, where the queue does not tell its limit."""
ATTRIBUTES_MAX_BYTES = 2 * 1024
"""What a message's source and id take at most beside its body."""
CONNECT_DEADLINE_S = 4.0
ANSWER_DEADLINE_S = 6.0
OPEN_DEADLINE_S = 10.0
SEND_DEADLINE_S = 20.0
CLOSE_DEADLINE_S = 3.0
ERROR_MAX_CHARS = 300

_MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
_ONES_FAULT = (
    "AWS.SimpleQueueService.BatchRequestTooLong",
    "BatchRequestTooLong",
    "InvalidMessageContents",
    "InvalidParameterValue",
)
"""What a whole batch is refused for, though it may be the fault of one of its messages."""


class Sqs:
    """The DeadLetterBroker of `core.letter_ports` on SQS; credentials come from AWS's usual places."""

    def __init__(self, address: SqsAddress, *, send_deadline_s: float = SEND_DEADLINE_S) -> None:
        self._address = address
        self._send_deadline_s = send_deadline_s
        self._exit = AsyncExitStack()
        self._client: Any = None
        self._queue_url: str | None = None
        self._limit_bytes = MAX_BYTES

    def __str__(self) -> str:
        return str(self._address)

    @property
    def max_bytes(self) -> int:
        """See DeadLetterBroker."""
        return self._limit_bytes - min(ATTRIBUTES_MAX_BYTES, self._limit_bytes // 2)

    async def open(self) -> None:
        """See DeadLetterBroker. The queue has to be there."""
        if self._queue_url is not None:
            return
        async with self._within(OPEN_DEADLINE_S):
            if self._client is None:
                self._client = await self._exit.enter_async_context(
                    get_session().create_client(
                        "sqs",
                        region_name=self._address.region,
                        endpoint_url=self._address.endpoint,
                        config=AioConfig(
                            connect_timeout=CONNECT_DEADLINE_S,
                            read_timeout=ANSWER_DEADLINE_S,
                            retries={"total_max_attempts": 1},  # the rows wait, and are tried again
                            proxies={} if self._address.is_local else None,  # else those of the environment
                        ),
                    )
                )
            url = (await self._client.get_queue_url(QueueName=self._address.queue))["QueueUrl"]
            self._limit_bytes = await self._ask_limit(url)
            self._queue_url = url

    async def _ask_limit(self, url: str) -> int:
        """How long a message may be; SQS's old limit where we may not ask."""
        try:
            answer = await self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
        except ClientError:
            return MAX_BYTES
        return int(answer.get("Attributes", {}).get("MaximumMessageSize", MAX_BYTES))

    async def send(self, messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        """See DeadLetterBroker."""
        refusals: list[str | None] = []
        async with self._within(self._send_deadline_s):
            await self.open()
            for batch in self._batches(messages):
                refusals += await self._send_batch(batch)
        return refusals

    async def _send_batch(self, batch: Sequence[DeadLetterMessage]) -> list[str | None]:
        entries = [self._entry(n, message) for n, message in enumerate(batch)]
        try:
            answer = await self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        except ClientError as error:
            if _code(error) not in _ONES_FAULT:
                raise
            if len(batch) == 1:
                return [_words(error)]
            return [refusal for message in batch for refusal in await self._send_batch([message])]
        confirmed = {entry["Id"] for entry in answer.get("Successful", ())}
        failed = {entry["Id"]: entry.get("Message") or entry.get("Code") for entry in answer.get("Failed", ())}
        return [
            None if (n := entry["Id"]) in confirmed else str(failed.get(n) or "not confirmed") for entry in entries
        ]

    def _batches(self, messages: Sequence[DeadLetterMessage]) -> Iterator[list[DeadLetterMessage]]:
        batch: list[DeadLetterMessage] = []
        size_bytes = 0
        for message in messages:
            cost_bytes = len(message.body) + ATTRIBUTES_MAX_BYTES
            if batch and (len(batch) == BATCH_MESSAGES or size_bytes + cost_bytes > self._limit_bytes):
                yield batch
                batch, size_bytes = [], 0
            batch.append(message)
            size_bytes += cost_bytes
        if batch:
            yield batch

    def _entry(self, number: int, message: DeadLetterMessage) -> dict[str, Any]:
        entry = {
            "Id": str(number),
            "MessageBody": _storable(message.body.decode(errors="replace")),
            "MessageAttributes": {
                "source": {"DataType": "String", "StringValue": _storable(message.source)},
                "id": {"DataType": "String", "StringValue": _storable(message.id)},
            },
        }
        if self._address.is_fifo:  # a group of its own, so that no letter waits for another
            entry |= {"MessageGroupId": message.digest, "MessageDeduplicationId": message.digest}
        return entry

    async def close(self) -> None:
        """See DeadLetterBroker."""
        leaving, self._exit, self._client, self._queue_url = self._exit, AsyncExitStack(), None, None
        with contextlib.suppress(TimeoutError, BotoCoreError, OSError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await leaving.aclose()

    @contextlib.asynccontextmanager
    async def _within(self, deadline_s: float) -> AsyncIterator[None]:
        """After any trouble `open` looks for the queue again."""
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except (ClientError, BotoCoreError, OSError) as error:  # OSError: TimeoutError, too
            self._queue_url = None
            raise Unavailable(f"{self}: {self._reason(error, deadline_s)}") from error

    def _reason(self, error: Exception, deadline_s: float) -> str:
        if isinstance(error, ClientError) and _code(error) in _MISSING:
            return "there is no such queue: create it, or correct DEAD_LETTER_URL"
        if isinstance(error, NoCredentialsError):
            return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        if isinstance(error, TimeoutError):
            return f"no answer within {deadline_s:g} s"
        return _words(error)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _words(error: Exception) -> str:
    """What AWS, or its library, said: the first line, since further ones may repeat the request."""
    text = str(error)
    if isinstance(error, ClientError):
        text = f"{_code(error)}: {error.response.get('Error', {}).get('Message', '')}"
    return text.strip().partition("\n")[0][:ERROR_MAX_CHARS] or type(error).__name__


def _storable(text: str) -> str:
    """SQS takes what XML can hold; in JSON these two can be written otherwise."""
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
