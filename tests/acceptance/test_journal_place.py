"""Producers as processes: none shares its journal with another, or acknowledges into a file that nobody will find."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.test_recovery import oncecast
from tests.support.producers import post, producer_process
from tests.support.stacks import until

IN_USE = "is in use by another process: give each producer a journal of its own\n"
UNSHARE = ("unshare", "--mount", "--map-root-user")


@pytest.fixture(autouse=True)
def one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands give up at once."""
    monkeypatch.setenv("START_ATTEMPTS", "1")


def may_mount() -> bool:
    """Whether a mount namespace can be made here, as a container has one."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run((*UNSHARE, "true"), stderr=subprocess.DEVNULL).returncode == 0
    )


async def test_a_second_process_is_refused_the_journal_by_a_hard_link_and_through_another_mount(
    tmp_path: Path,
) -> None:
    with producer_process(tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "link.db").hardlink_to(tmp_path / "journal.db")
        status, _, error = await oncecast("producer", "--port", "0", "--journal-path", str(tmp_path / "link.db"))
        assert (status, error) == (1, f"oncecast: the journal {tmp_path / 'link.db'} {IN_USE}")
        if not may_mount():
            pytest.skip("no mount namespace can be made here")
        producer = f"{sys.executable} -m oncecast producer --port 0"
        command = f"mount --bind {tmp_path} {tmp_path / 'other'} && exec {producer}"
        second = subprocess.run(
            (*UNSHARE, "sh", "-c", command),
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "JOURNAL_PATH": str(tmp_path / "other" / "journal.db")},
        )
        assert second.stderr == f"oncecast: the journal {tmp_path / 'other' / 'journal.db'} {IN_USE}"


async def test_a_producer_whose_journal_is_deleted_refuses_with_the_reason_and_every_face_says_so(
    tmp_path: Path,
) -> None:
    with producer_process(tmp_path) as producer:
        async with producer.client() as client:
            assert (await post(client, {"id": "accepted"})).status_code == 202
            (tmp_path / "journal.db").unlink()

            async def is_down() -> bool:
                health = (await client.get("/health")).json()
                return health["status"] == "down" and "has been deleted or moved" in health["reason"]

            await until(is_down)
            answer = await post(client, {"id": "refused"})
            assert answer.status_code == 503
            assert "accepts nothing: put that very file back, or restart the producer" in answer.json()["detail"]
            events = (await client.get("/events")).json()["events"]
            assert events[0]["id"] == "accepted", "a client that is behind may still read accepted events"
        assert "journal.db has been deleted or moved" in producer.log.read_text()
