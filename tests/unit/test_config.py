"""Settings: a flag precedes the environment, that the default, and each wrong setting is one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from oncecast.assembly import _http_limits, _listener_settings
from oncecast.cli import processes
from oncecast.config import Common, ListenerConfig, ProducerConfig, load
from oncecast.core.errors import ConfigError
from oncecast.http.connections import HttpLimits
from oncecast.listener.service import ListenerSettings


def test_a_flag_comes_before_the_environment_and_that_before_the_default() -> None:
    assert load(ProducerConfig, {}).port == 8080
    assert load(ProducerConfig, {"PORT": "9000"}).port == 9000
    assert load(ProducerConfig, {"PORT": "9000"}, {"port": 7000}).port == 7000


def test_each_default_of_a_listener_and_its_http_server_is_that_of_its_setting() -> None:
    config = load(ListenerConfig, {})
    assert _listener_settings(config) == ListenerSettings(
        instance=config.instance_id, group=config.listener_group, producer_urls=config.ws_url
    )
    assert _http_limits(config) == HttpLimits()


@pytest.mark.parametrize(
    ("command", "kind"), [(processes.producer, ProducerConfig), (processes.listener, ListenerConfig)]
)
def test_the_help_of_each_flag_names_its_variable_and_default(
    command: Callable[..., None], kind: type[Common]
) -> None:
    settings = {field.name: field for field in fields(kind)}
    named = dict(re.findall(r"\[([A-Z_]+), (.+)\]$", command.__doc__ or "", re.MULTILINE))
    computed = {"INSTANCE_ID": "the host's name", "LISTENER_GROUP": "the application's name"}
    flags = [name.upper() for name in inspect.signature(command).parameters if name in settings]
    assert named == {name: computed.get(name, settings[name.lower()].metadata["default"]) for name in flags}


def test_a_file_can_hold_the_value(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:secret@localhost:1\n")
    assert load(ListenerConfig, {"REDIS_URL_FILE": str(tmp_path / "url")}).redis_url == "redis://:secret@localhost:1"
    with pytest.raises(ConfigError, match="REDIS_URL_FILE: cannot read"):
        load(ListenerConfig, {"REDIS_URL_FILE": str(tmp_path / "none")})
    (tmp_path / "url").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"REDIS_URL_FILE: '.*url' is not UTF-8"):
        load(ListenerConfig, {"REDIS_URL_FILE": str(tmp_path / "url")})


def test_where_dead_letters_go_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://u:hunter2@h?queue=q\n")
    address = load(ListenerConfig, {"DEAD_LETTER_URL_FILE": str(tmp_path / "url")}).dead_letter_url
    assert str(address) == "queue q of RabbitMQ at h:5672"
    assert load(ListenerConfig, {}).dead_letter_url is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "x"), ("PORT", "70000"), ("PORT", "-1"), ("PORT", "٣"), ("LEASE_TTL", "soon"), ("LEASE_TTL", "-2s"),
        ("LEASE_TTL", "2 fortnights"), ("WINDOW_BYTES", "0"), ("WINDOW_BYTES", "1 GB"), ("EVENT_ATTEMPTS", "0"),
        ("WS_URL", "http://localhost"), ("WS_URL", "ws://a,nonsense"), ("DATABASE_URL", "mysql://x/y"),
        ("REDIS_URL", ""), ("LISTENER_GROUP", "No Spaces"), ("INSTANCE_ID", "a\nb"), ("LOG_FORMAT", "xml"),
        ("LISTENER_TOKEN", "short"), ("LISTENER_TOKEN", "long-enough,short"),
        ("ALLOW_NO_TOKEN", "maybe"), ("HOST", " "), ("DEAD_LETTER_URL", "kafka://x"), ("DEAD_LETTER_URL", "sqs://x"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ListenerConfig, {variable: value})
    assert str(caught.value).startswith(f"invalid value for {variable}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"EVENT_MAX_BYTES": "100MiB"}, "invalid value for EVENT_MAX_BYTES: '100MiB' (expected at most 16MiB"),
        ({"FRAME_MAX_BYTES": "17MiB"}, "invalid value for FRAME_MAX_BYTES: '17MiB' (expected at most 16MiB"),
        ({"EVENT_MAX_BYTES": "2MiB", "REQUEST_MAX_BYTES": "1MiB"}, "raise REQUEST_MAX_BYTES"),
    ],
)
def test_a_limit_that_a_listener_or_a_request_cannot_keep_is_refused_at_the_start(
    settings: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ProducerConfig, settings)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tokens_of_listeners_are_for_every_group_or_for_one_and_the_rest_is_refused_without_a_secret() -> None:
    def read(text: str) -> tuple[tuple[str, str], ...]:
        return load(ProducerConfig, {"LISTENER_TOKENS": text}).listener_tokens

    assert read("") == ()
    assert read("hunter2hunter2") == (("*", "hunter2hunter2"),)
    assert read("shop:hunter2hunter2, audit:another-one") == (("shop", "hunter2hunter2"), ("audit", "another-one"))
    assert read("shop:hunter2hunter2,shop:hunter3hunter3")[1] == ("shop", "hunter3hunter3")
    for wrong in ("hunter2", "shop:hunter2", "shop:", "Shop:hunter2hunter2", "a:hunter2:hunter2", ":hunter2hunter2"):
        with pytest.raises(ConfigError) as caught:
            read(wrong)
        assert str(caught.value).startswith("invalid value for LISTENER_TOKENS (expected")
        assert "hunter2" not in str(caught.value)
    settings = load(ProducerConfig, {"LISTENER_TOKENS": "shop:hunter2hunter2"})
    assert "hunter2" not in repr(settings)


def test_a_listener_presents_one_token_to_all_producers_or_to_each_its_own() -> None:
    def presented(tokens: str) -> dict[str, str]:
        return load(ListenerConfig, {"WS_URL": "ws://a,ws://b", "LISTENER_TOKEN": tokens}).tokens_by_url

    assert presented("") == {}
    assert presented("hunter2hunter2") == {"ws://a": "hunter2hunter2", "ws://b": "hunter2hunter2"}
    assert presented("hunter2hunter2,hunter3hunter3") == {"ws://a": "hunter2hunter2", "ws://b": "hunter3hunter3"}
    with pytest.raises(ConfigError, match=r"^LISTENER_TOKEN: 3 secrets for 2 URLs in WS_URL"):
        presented("hunter2hunter2,hunter3hunter3,hunter4hunter4")


def test_all_invalid_values_are_reported_together_without_secrets() -> None:
    with pytest.raises(ConfigError) as caught:
        load(ListenerConfig, {"PORT": "x", "LEASE_TTL": "y", "DATABASE_URL": "mysql://user:hunter2@host/db"})
    assert len(str(caught.value).splitlines()) == 3
    assert "hunter2" not in str(caught.value)


def test_no_secret_is_in_the_text_of_the_settings() -> None:
    secrets = {
        "DATABASE_URL": "postgres://u:hunter2@h/d",
        "REDIS_URL": "redis://:hunter2@h",
        "ADMIN_TOKEN": "hunter2hunter2",
        "DEAD_LETTER_URL": "amqp://u:hunter2@h",
    }
    assert "hunter2" not in repr(load(ListenerConfig, {**secrets, "SUBSCRIBE_TOKEN": "hunter2hunter2"}))
    for wrong in ("short", "with a space in it", "ünprintable"):
        with pytest.raises(ConfigError) as caught:
            load(ProducerConfig, {"PUBLISH_TOKEN": wrong})
        assert wrong not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1m", 60.0), ("1.5", 1.5), ("7d", 604_800.0)]
)
def test_durations_have_units_and_a_bare_number_is_seconds(text: str, seconds: float) -> None:
    assert load(ListenerConfig, {"LEASE_TTL": text}).lease_ttl == seconds
