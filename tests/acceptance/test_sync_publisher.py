"""The publisher for code without an event loop, in processes of its own: interruptions, forks, a real producer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import pytest

from oncecast import Event, SyncPublisher
from oncecast.embedded.ports import free_port
from tests.support.interrupts import interrupts_count
from tests.support.producers import ProducerProcess, producer_process

WITHIN_S = 20.0


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProducerProcess]:
    with producer_process(tmp_path_factory.mktemp("producer")) as running:
        yield running


def ids_after(address: ProducerProcess, cursor: object) -> list[str]:
    """Of all events that the producer has on disk behind that place."""
    ids: list[str] = []
    with httpx2.Client(base_url=address.http) as client:
        while True:
            page = client.get("/events", params={"after": str(cursor), "limit": 1000}).json()
            if not page["events"]:
                return ids
            ids += [event["id"] for event in page["events"]]
            cursor = page["next"]


def test_what_is_published_is_on_the_producers_disk_one_by_one_and_in_batches(producer: ProducerProcess) -> None:
    with SyncPublisher(producer.http) as publisher:
        start = publisher.publish(Event.new("begin"))
        cursor = publisher.publish(Event.new("order.created", {"sku": "A-1"}, id="o-1"))
        assert cursor.offset == start.offset + 1
        assert publisher.publish_many({"id": f"b{n}", "n": n} for n in range(250)) == 250
    first, *others = ids_after(producer, start)
    assert (first, others) == ("o-1", [f"b{n}" for n in range(250)])


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interrupts_count
    )


INTERRUPTED = """
import sys
from oncecast import SyncPublisher
publish_many = sys.argv[2] == "many"
with SyncPublisher(sys.argv[1], on_trouble=lambda reason: print("failed", flush=True)) as publisher:
    publisher.publish_many(iter(lambda: {"n": 1}, 0)) if publish_many else publisher.publish({"n": 1})
"""


@pytest.mark.parametrize("how", ["one", "many"])
def test_ctrl_c_ends_a_call_at_once(how: str) -> None:
    with python(INTERRUPTED, f"http://127.0.0.1:{free_port()}", how) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "failed\n"
        began_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WITHIN_S)
    assert "KeyboardInterrupt" in err.splitlines(), err
    assert time.monotonic() - began_s < 5.0, "a deadline would be a minute"


NEVER_CLOSED = """
import sys
from oncecast import SyncPublisher
publisher = SyncPublisher(sys.argv[1])
print(publisher.publish({"n": 1}).offset)
"""


def test_a_script_that_never_closes_its_publisher_ends_quietly(producer: ProducerProcess) -> None:
    with python(NEVER_CLOSED, producer.http) as process:
        out, err = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, out.strip().isdigit(), err) == (0, True, "")


FORKED = """
import os, sys, threading
from oncecast import SyncPublisher

publisher = SyncPublisher(sys.argv[1])
if sys.argv[2] == "used before":
    publisher.publish({"id": "before"})
    # Threads publish, and hold its locks, at the very moments of the forks.
    stop = threading.Event()
    def busy(name):
        n = 0
        while not stop.is_set():
            publisher.publish({"id": f"busy-{name}-{n}"})
            n += 1
    threads = [threading.Thread(target=busy, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
children = []
for n in range(5):
    if (pid := os.fork()) == 0:
        publisher.publish({"id": f"child-{n}"})
        publisher.publish_many({"id": f"child-{n}-{i}"} for i in range(300))
        publisher.close()
        os._exit(0)
    children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
if sys.argv[2] == "used before":
    stop.set()
    [thread.join() for thread in threads]
print(statuses, publisher.publish({"id": "after"}).offset)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("when", ["made before", "used before"])
def test_after_a_fork_parent_and_children_publish_each_for_itself(producer: ProducerProcess, when: str) -> None:
    with SyncPublisher(producer.http) as p:
        start = p.publish({"id": "start"})
    with python(FORKED, producer.http, when) as process:
        out, err = process.communicate(timeout=60)
    assert out.startswith("[0, 0, 0, 0, 0] "), err
    assert "Traceback" not in err
    found = ids_after(producer, start)
    expected = {f"child-{n}" for n in range(5)} | {f"child-{n}-{i}" for n in range(5) for i in range(300)} | {"after"}
    assert expected <= set(found)
    assert len(found) == len(set(found)), "nobody sent what another had"
