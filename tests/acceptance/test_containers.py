"""Image, compose file and Kubernetes manifests, held against what they start: no container engine is needed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import httpx2
import kubernetes_validate
import psycopg
import pytest
import yaml

from oncecast.config import ListenerConfig, ProducerConfig, load
from oncecast.core.durations import duration_s
from oncecast.embedded.ports import free_port
from tests.support.command import check_command
from tests.support.servers import Servers
from tests.support.stacks import StackOf, until

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("producer", "listener-a", "listener-b")
MANIFEST_FILES = [*sorted((ROOT / "deploy/kubernetes").glob("*.yaml")), ROOT / "deploy/kubernetes/secret.example"]
MANIFESTS = [document for file in MANIFEST_FILES for document in yaml.safe_load_all(file.read_text())]
WORKLOADS = {m["metadata"]["name"]: m for m in MANIFESTS if m["kind"] in ("StatefulSet", "Deployment")}
KINDS: dict[str, type[ProducerConfig | ListenerConfig]] = {"producer": ProducerConfig, "listener": ListenerConfig}
DRAIN_S = load(ListenerConfig, {}).drain_timeout
READY_WITHIN_S = 30.0


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and argument, with continued lines joined and comments left out."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def last(instruction: str) -> str:
    return [argument for name, argument in dockerfile() if name == instruction][-1]


def health_check() -> list[str]:
    """The image's command, for the Python that runs here."""
    program, *arguments = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert program == "python"
    return [sys.executable, *arguments]


def container(workload: str) -> dict[str, Any]:
    containers: list[dict[str, Any]] = WORKLOADS[workload]["spec"]["template"]["spec"]["containers"]
    (only,) = containers
    return only


def settings_known(kind: str, environment: Mapping[str, str]) -> None:
    """Each variable is a setting of `oncecast KIND`, and each value will do."""
    known = {field.name.upper() for field in dataclasses.fields(KINDS[kind])}
    assert {name.removesuffix("_FILE") for name in environment} <= known
    load(KINDS[kind], {name: value for name, value in environment.items() if not name.endswith("_FILE")})


# --- the files by themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["hadolint Dockerfile", "check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml"]
)
def test_image_and_compose_file_pass_their_linters(command: str) -> None:
    program, *arguments = shlex.split(command)
    checked = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_each_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


# --- the image --------------------------------------------------------------------------------------------


def test_the_image_is_built_of_files_that_its_context_has() -> None:
    """.dockerignore leaves everything out but what it names."""
    ignored, *rules = [x for x in (ROOT / ".dockerignore").read_text().splitlines() if x and x[0] != "#"]
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    assert ignored == "*"
    copies = [argument.split() for name, argument in dockerfile() if name == "COPY" and "--from" not in argument]
    for source in (source for *sources, _ in copies for source in sources):
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in kept), source


def test_the_image_has_every_extra_but_those_for_development() -> None:
    (extras,) = re.findall(r"whl\)\[([a-z,]+)\]", (ROOT / "Dockerfile").read_text())
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) == there.keys() - {"embedded", "reload"}


def test_image_and_pods_run_as_the_same_user_who_is_not_root() -> None:
    user, group = map(int, last("USER").split(":"))
    assert user > 0
    for workload in WORKLOADS.values():
        security = workload["spec"]["template"]["spec"]["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (user, group, group)


def test_the_image_is_the_command() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["oncecast"]
    check_command(json.loads(last("CMD")))


# --- the compose file -------------------------------------------------------------------------------------


def test_the_containers_are_called_as_people_know_them() -> None:
    assert {service["container_name"] for service in SERVICES.values()} == {
        "oncecast-producer", "oncecast-listener-a", "oncecast-listener-b", "oncecast-redis", "oncecast-postgres",
    }  # fmt: skip


def test_only_this_machine_reaches_the_three_faces_and_nobody_the_databases() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published == {
        "producer": ["127.0.0.1:8080:8080"],
        "listener-a": ["127.0.0.1:3001:3001"],
        "listener-b": ["127.0.0.1:3002:3002"],
        "redis": [],
        "postgres": [],
    }
    for name in OURS:
        assert published[name][0].split(":")[2] == SERVICES[name]["environment"]["PORT"]


@pytest.mark.parametrize("name", OURS)
def test_each_service_is_a_real_command_with_real_settings(name: str) -> None:
    command = SERVICES[name]["command"]
    check_command([command])
    settings_known(command, SERVICES[name]["environment"])
    assert SERVICES[name]["environment"]["INSTANCE_ID"] == name


@pytest.mark.parametrize("name", ["listener-a", "listener-b"])
def test_a_listener_s_urls_lead_to_the_other_services(name: str) -> None:
    environment = SERVICES[name]["environment"]
    producer, redis, postgres = (urlsplit(environment[url]) for url in ("WS_URL", "REDIS_URL", "DATABASE_URL"))
    there = SERVICES["postgres"]["environment"]
    assert (producer.hostname, str(producer.port)) == ("producer", SERVICES["producer"]["environment"]["PORT"])
    assert (redis.hostname, redis.port, redis.password) == ("redis", 6379, None)
    assert (postgres.hostname, postgres.port) == ("postgres", 5432)
    assert (postgres.username, postgres.password, postgres.path) == (
        there["POSTGRES_USER"], there["POSTGRES_PASSWORD"], "/" + there["POSTGRES_DB"],
    )  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_journal_and_dead_letters_are_on_a_volume_of_their_own(name: str) -> None:
    """Both are relative paths: in the image's working folder, which is where `docker exec … cat` looks, too."""
    assert load(ProducerConfig, {}).journal_path == Path("journal.db")
    assert load(ListenerConfig, {}).dead_letter_path == Path("failed_events.log")
    assert SERVICES[name]["volumes"] == [f"{name}:{last('WORKDIR')}"]
    assert last("VOLUME") == last("WORKDIR")
    assert name in COMPOSE["volumes"]


def test_every_container_has_a_health_check_and_none_waits_for_one_that_may_be_away() -> None:
    for name, service in SERVICES.items():
        assert "healthcheck" in service
        assert ("test" in service["healthcheck"]) == (name not in OURS)  # ours is the image's
        assert isinstance(service.get("depends_on", []), list)  # a list has no conditions


def test_everybody_is_given_longer_to_end_than_a_drain_takes() -> None:
    for name in OURS:
        assert duration_s(SERVICES[name]["stop_grace_period"]) >= DRAIN_S + 10
    for workload in WORKLOADS.values():
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= DRAIN_S + 10


# --- the manifests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workload", "kind"), [("oncecast-producer", "producer"), ("oncecast-listener", "listener")])
def test_each_workload_is_a_real_command_with_real_settings(workload: str, kind: str) -> None:
    spec = container(workload)
    check_command(spec["args"])
    assert spec["args"][0] == kind
    environment = {item["name"]: item.get("value", "oncecast-x-0") for item in spec["env"]}
    settings_known(kind, environment)
    (port,) = spec["ports"]
    assert str(port["containerPort"]) == environment["PORT"]
    services = [m["spec"] for m in MANIFESTS if m["kind"] == "Service" and m["metadata"]["name"].startswith(workload)]
    for service in services:
        assert service["selector"] == WORKLOADS[workload]["spec"]["template"]["metadata"]["labels"]
        assert [(p["port"], p["targetPort"]) for p in service["ports"]] == [(port["containerPort"], port["name"])]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert spec[probe]["httpGet"]["port"] == port["name"]
        assert spec[probe]["httpGet"]["path"] == ("/readyz" if probe == "readinessProbe" else "/livez")
    assert last("WORKDIR") in {mount["mountPath"] for mount in spec["volumeMounts"]}


def test_a_pod_s_secrets_are_files_of_the_example() -> None:
    (secret,) = [m for m in MANIFESTS if m["kind"] == "Secret"]
    spec = container("oncecast-listener")
    (mount,) = [m["mountPath"] for m in spec["volumeMounts"] if m["name"] == "secrets"]
    files = {item["name"]: PurePosixPath(item["value"]) for item in spec["env"] if item["name"].endswith("_FILE")}
    assert files == {f"{name}_FILE": PurePosixPath(mount, name) for name in secret["stringData"]}
    settings_known("listener", secret["stringData"])


def test_the_listeners_know_every_producer_by_the_name_of_its_pod() -> None:
    stateful = WORKLOADS["oncecast-producer"]["spec"]
    (urls,) = [item["value"] for item in container("oncecast-listener")["env"] if item["name"] == "WS_URL"]
    assert urls.split(",") == [
        f"ws://oncecast-producer-{n}.{stateful['serviceName']}:8080" for n in range(stateful["replicas"])
    ]


# --- run for real -----------------------------------------------------------------------------------------


@contextmanager
def process(folder: Path, command: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """What a container's process would be: only the compose file's environment, in a clean working folder."""
    folder.mkdir()
    clean = {"PATH": os.environ["PATH"], **environment}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "oncecast", *shlex.split(command)], cwd=folder, env=clean, stdout=log, stderr=log
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(READY_WITHIN_S) == 0


def is_healthy(port: str) -> bool:
    """A proxy that the container was given is not asked."""
    environment = {"PATH": os.environ["PATH"], "PORT": port, "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(health_check(), env=environment, capture_output=True, timeout=30).returncode == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture
def schema_free(servers: Servers) -> Iterator[None]:
    """Drop the schema of the default group, which the compose file's listeners use."""
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute("drop schema if exists oncecast cascade")
        yield
        connection.execute("drop schema if exists oncecast cascade")


def test_producer_and_listener_run_with_the_compose_file_s_environment(
    tmp_path: Path, servers: Servers, schema_free: None
) -> None:
    """Only addresses differ: each name of a service is this machine here, and each port a free one."""
    ports = {"producer": str(free_port()), "listener-b": str(free_port())}
    producer = {**SERVICES["producer"]["environment"], "PORT": ports["producer"]}
    listener = {
        **SERVICES["listener-b"]["environment"],
        "PORT": ports["listener-b"],
        "WS_URL": f"ws://localhost:{ports['producer']}",
        "REDIS_URL": servers.redis_url,
        "DATABASE_URL": servers.postgres_url,
    }
    assert not is_healthy(ports["producer"])
    with process(tmp_path / "producer", "producer", producer):
        wait_for(lambda: is_healthy(ports["producer"]))
        with process(tmp_path / "listener", "listener", listener), httpx2.Client(timeout=10) as client:
            wait_for(lambda: is_healthy(ports["listener-b"]))
            published = client.post(
                f"http://localhost:{ports['producer']}/events", json={"id": "o-1", "type": "order.created"}
            )
            assert published.status_code == 202
            url = f"http://localhost:{ports['listener-b']}/api/events"
            wait_for(lambda: [row["event"]["id"] for row in client.get(url).json()["events"]] == ["o-1"])
            for port in ports.values():
                for path in ("/livez", "/readyz"):
                    probe = client.get(f"http://localhost:{port}{path}", headers={"Host": f"10.1.2.3:{port}"})
                    assert probe.status_code == 200  # a kubelet calls a pod by its address
        assert not is_healthy(ports["listener-b"])
        assert (tmp_path / "producer" / "journal.db").is_file()
        assert (tmp_path / "listener" / "failed_events.log").is_file()
    assert not is_healthy(ports["producer"])


async def test_a_listener_whose_postgresql_is_away_is_healthy_but_not_ready(stack_of: StackOf) -> None:
    async with stack_of(listeners=1, environment={"DB_ATTEMPTS": "1"}) as stack, httpx2.AsyncClient() as client:
        url = stack.listener_urls["listener-a"]
        await stack.stop("postgres")
        await client.post(f"{stack.publish_url}/events", json={"id": "o-1"})

        async def not_ready() -> bool:
            return (await client.get(f"{url}/readyz")).status_code == 503

        await until(not_ready)
        assert is_healthy(str(urlsplit(url).port))


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose 1.29, as Debian has it")
def test_the_oldest_docker_compose_in_use_takes_the_file() -> None:
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
