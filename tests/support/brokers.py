"""Real brokers for dead letters: a private RabbitMQ of Debian's package, and moto's SQS over HTTP."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import pytest
from aiobotocore.session import get_session

from oncecast.embedded.guarded import Guard
from oncecast.embedded.ports import LOOPBACK, free_ports
from oncecast.embedded.process import announced

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The package's script; the one in the PATH switches to another user, for its log, too."""
READY_DEADLINE_S = 60.0
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2", "AWS_EC2_METADATA_DISABLED": "true"}
REGION = "eu-central-1"


class Child:
    """A child process that ends with the test run, even a killed one; it can be stopped, paused and restarted."""

    def __init__(
        self, guard: Guard, command: Sequence[str], folder: Path, port: int, environment: Mapping[str, str]
    ) -> None:
        self.port = port
        self._guard = guard
        self._command = announced(command, signal.SIGKILL)
        self._folder = folder
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self._folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=self._guard.pipe,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + READY_DEADLINE_S
        while not self._listens():
            log_text = (self._folder / "output.log").read_text(errors="replace")[-3_000:]
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline_s, log_text
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), 1.0):
                return True
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it, and wait for its end."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._guard.release(self._process.pid)
        self._process = None

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    @property
    def runs(self) -> bool:
        """Return whether it runs."""
        return self._process is not None and self._process.poll() is None


class RabbitMQServer:
    """A node of its own: its own ports, data, cookie and port mapper, on 127.0.0.1 only, without plug-ins."""

    def __init__(self, folder: Path, guard: Guard) -> None:
        self.password = secrets.token_hex(8)
        port, distribution, mapper = free_ports(3)
        config = folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.default = {LOOPBACK}:{port}\nloopback_users = none\n"
            "log.console = true\nlog.file = false\n"
            f"default_user = oncecast\ndefault_pass = {self.password}\ndisk_free_limit.absolute = 1MB\n"
        )
        (folder / "plugins").write_text("[].\n")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_ALLOW_INPUT": "1",  # the script replaces itself by the server
            "RABBITMQ_SERVER_START_ARGS": "-noshell -noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
            "RABBITMQ_NODENAME": f"oncecast{port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        for name in ("mapper", "log"):
            (folder / name).mkdir()
        mapping = ["epmd", "-port", str(mapper), "-address", LOOPBACK]
        self.mapper = Child(guard, mapping, folder / "mapper", mapper, environment)
        self.node = Child(guard, [str(RABBITMQ_SERVER)], folder, port, environment)

    def url(self, *, user: str = "oncecast", password: str | None = None, vhost: str = "", **query: str) -> str:
        """An address of it."""
        given = "&".join(f"{name}={value}" for name, value in query.items())
        return f"amqp://{user}:{password or self.password}@{LOOPBACK}:{self.node.port}/{vhost}" + f"?{given}" * bool(
            given
        )

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
        """For a test's own use."""
        connection = await aio_pika.connect(self.url(), timeout=10)
        try:
            yield await connection.channel()
        finally:
            await connection.close()

    async def messages(self, queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
        """What is in a queue, taken from it; nothing where there is no such queue."""
        found = []
        async with self.channel() as channel:
            try:
                asked = await channel.get_queue(queue)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return []
            while (message := await asked.get(fail=False)) is not None:
                await message.ack()
                found.append(message)
        return found


@pytest.fixture(scope="session")
def _rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    if not RABBITMQ_SERVER.exists() or shutil.which("epmd") is None:
        pytest.skip("rabbitmq-server is not installed")
    folder = tmp_path_factory.mktemp("rabbitmq")
    guard = Guard()
    server = RabbitMQServer(folder, guard)
    try:
        server.mapper.start()
        server.node.start()
        yield server
    finally:
        server.node.stop(signal.SIGKILL)
        server.mapper.stop(signal.SIGKILL)
        guard.close()


@pytest.fixture
def rabbitmq(_rabbitmq_server: RabbitMQServer) -> Iterator[RabbitMQServer]:
    """A real RabbitMQ, which runs at the start of each test, even if the previous test stopped it."""
    server = _rabbitmq_server
    if not server.node.runs:
        server.node.start()
    yield server
    server.node.resume()


class SqsServer:
    """moto's SQS, in a process of its own."""

    def __init__(self, folder: Path, guard: Guard) -> None:
        (port,) = free_ports(1)
        self.endpoint = f"http://{LOOPBACK}:{port}"
        command = [sys.executable, "-m", "moto.server", "--host", LOOPBACK, "--port", str(port)]
        self.process = Child(guard, command, folder, port, {**os.environ, **AWS, "PYTHONUNBUFFERED": "1"})

    def url(self, queue: str) -> str:
        """An address of a queue."""
        return f"sqs://{REGION}/{queue}?endpoint={self.endpoint}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """For a test's own use."""
        async with get_session().create_client(
            "sqs",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ) as client:
            yield client

    async def create(self, queue: str, **attributes: str) -> None:
        """A queue."""
        async with self.client() as client:
            await client.create_queue(QueueName=queue, Attributes=attributes)

    async def messages(self, queue: str) -> list[dict[str, Any]]:
        """What is in a queue, taken from it."""
        found = []
        async with self.client() as client:
            url = (await client.get_queue_url(QueueName=queue))["QueueUrl"]
            while batch := (
                await client.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
                )
            ).get("Messages"):
                for message in batch:
                    await client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found += batch
        return found


@pytest.fixture(scope="session")
def _sqs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    guard = Guard()
    server = SqsServer(tmp_path_factory.mktemp("sqs"), guard)
    try:
        server.process.start()
        yield server
    finally:
        server.process.stop(signal.SIGKILL)
        guard.close()


@pytest.fixture
def sqs(_sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqsServer]:
    """moto's SQS, which runs at the start of each test, with credentials for it in the environment."""
    if not _sqs_server.process.runs:
        _sqs_server.process.start()
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    yield _sqs_server
    _sqs_server.process.resume()


def body_of(text: str | bytes) -> dict[str, Any]:
    """A message's JSON."""
    body: dict[str, Any] = msgspec.json.decode(text)
    return body


@contextlib.contextmanager
def frozen(child: Child) -> Iterator[None]:
    """Pause the process during the block, with its connections open."""
    child.pause()
    try:
        yield
    finally:
        child.resume()
