"""The alert rules, the dashboard and /metrics with real Prometheus tools."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from oncecast.client import Publisher
from oncecast.embedded import Stack
from oncecast.embedded.ports import LOOPBACK, free_port
from oncecast.event import Event
from oncecast.observe.catalogue import CATALOGUE
from tests.support.stacks import StackOf, drained, until

DEPLOY = Path(__file__).parents[2] / "deploy"
ABSENT = {"oncecast_dead_letters_unsent"}
"""Metrics of what this stack does not have: a broker of dead letters."""


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}, of Debian's prometheus")


@needs("promtool")
@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_accepts_the_alert_rules_and_their_tests(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ("promtool", *arguments), cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
async def test_promtool_finds_no_fault_in_the_metrics(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, httpx2.AsyncClient() as client:
        for url in (stack.publish_url, *stack.listener_urls.values()):
            text = (await client.get(f"{url}/metrics")).text
            done = subprocess.run(
                ("promtool", "check", "metrics"), input=text, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr


@needs("prometheus")
async def test_every_query_of_the_dashboard_has_data_in_a_real_prometheus(stack_of: StackOf, tmp_path: Path) -> None:
    queries = [
        target["expr"].replace("$__rate_interval", "1m")
        for panel in json.loads((DEPLOY / "grafana" / "oncecast.json").read_text("utf-8"))["panels"]
        for target in panel["targets"]
    ]
    names = [metric.name for metric in CATALOGUE if metric.name not in ABSENT]
    series = [name if metric.kind != "histogram" else f"{name}_bucket" for name, metric in _by_name(names)]
    async with stack_of() as stack, prometheus(stack, tmp_path) as client:
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish_many([Event.new("tick", {"n": n}) for n in range(50)])
            await publisher.publish(Event.new("oncecast.failing", {"fails": False}))
            await publisher.publish(Event.new("oncecast.failing", {"fails": True}))
        await drained(stack)

        missing = queries + series

        async def has_data() -> bool:
            missing[:] = await without_data(client, missing)
            return not missing

        try:
            await until(has_data, within_s=30.0)
        except AssertionError:
            pytest.fail(f"no data: {missing}")
        rules = (await client.get("/api/v1/rules")).json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules


def _by_name(names: list[str]) -> list[tuple[str, Any]]:
    return [(metric.name, metric) for metric in CATALOGUE if metric.name in names]


async def without_data(client: httpx2.AsyncClient, queries: list[str]) -> list[str]:
    """Return the queries that find nothing."""
    missing = []
    for query in queries:
        answer = (await client.get("/api/v1/query", params={"query": query})).json()
        assert answer["status"] == "success", answer
        if not answer["data"]["result"]:
            missing.append(query)
    return missing


@asynccontextmanager
async def prometheus(stack: Stack, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a Prometheus that scrapes every process of the stack each second."""
    targets = [re.sub(r"^http://", "", url) for url in (stack.publish_url, *stack.listener_urls.values())]
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus" / "alerts.yml")],
        "scrape_configs": [{"job_name": "oncecast", "static_configs": [{"targets": targets}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    address = f"{LOOPBACK}:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={file}",
        f"--web.listen-address={address}",
        f"--storage.tsdb.path={folder / 'data'}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=10.0) as client:

            async def is_ready() -> bool:
                try:
                    return (await client.get("/-/ready")).status_code == 200
                except httpx2.TransportError:
                    return False

            await until(is_ready, within_s=30.0)
            yield client
    finally:
        process.terminate()
        await process.wait()
