"""Amazon SQS as the broker for dead letters."""

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

# Telemetry events report these errors once.
for _name in ("aiobotocore", "botocore"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

BATCH_MESSAGES = 10
"""SQS's limit for a batch."""
MAX_BYTES = 256 * 1024
"""The limit for a message or a batch if the queue's own limit is unknown."""
ATTRIBUTES_MAX_BYTES = 2 * 1024
"""The most that a message's source and id add to its body."""
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
"""Errors of a whole batch that a single message may have caused."""


class Sqs:
    """A DeadLetterBroker for SQS; credentials come from AWS's usual places."""

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
        """The longest body that the queue accepts, as far as known."""
        return self._limit_bytes - min(ATTRIBUTES_MAX_BYTES, self._limit_bytes // 2)

    async def open(self) -> None:
        """Connect unless connected, and look up the queue, which must exist."""
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
                            retries={"total_max_attempts": 1},  # the caller tries again
                            proxies={} if self._address.is_local else None,  # None: those of the environment
                        ),
                    )
                )
            url = (await self._client.get_queue_url(QueueName=self._address.queue))["QueueUrl"]
            self._limit_bytes = await self._ask_limit(url)
            self._queue_url = url

    async def _ask_limit(self, url: str) -> int:
        """Return the limit of the queue for a message, or SQS's old limit without the permission to ask."""
        try:
            answer = await self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
        except ClientError:
            return MAX_BYTES
        return int(answer.get("Attributes", {}).get("MaximumMessageSize", MAX_BYTES))

    async def send(self, messages: Sequence[DeadLetterMessage]) -> list[str | None]:
        """Send `messages`; return for each None if SQS confirmed it, else the reason of its refusal."""
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
        if self._address.is_fifo:  # a group per message, so that none waits for another
            entry |= {"MessageGroupId": message.digest, "MessageDeduplicationId": message.digest}
        return entry

    async def close(self) -> None:
        """Close the connections, within CLOSE_DEADLINE_S."""
        leaving, self._exit, self._client, self._queue_url = self._exit, AsyncExitStack(), None, None
        with contextlib.suppress(TimeoutError, BotoCoreError, OSError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await leaving.aclose()

    @contextlib.asynccontextmanager
    async def _within(self, deadline_s: float) -> AsyncIterator[None]:
        """Limit the block to `deadline_s`; after an error `open` looks the queue up again."""
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except (ClientError, BotoCoreError, OSError) as error:  # OSError includes TimeoutError
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
    """Return the first line of the error text; further lines may repeat the request."""
    text = str(error)
    if isinstance(error, ClientError):
        text = f"{_code(error)}: {error.response.get('Error', {}).get('Message', '')}"
    return text.strip().partition("\n")[0][:ERROR_MAX_CHARS] or type(error).__name__


def _storable(text: str) -> str:
    """Escape the two characters that SQS refuses, because XML cannot hold them; in JSON they can be escaped."""
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
