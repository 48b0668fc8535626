"""Every address that a setting takes works, or is refused at the start with one line that gives nothing away."""

from __future__ import annotations

import pytest

from oncecast.client.address import is_loopback
from oncecast.config import ListenerConfig, ProducerConfig, load
from oncecast.core.errors import ConfigError

READ = [
    ("WS_URL", "ws://host/oncecast", ("ws://host/oncecast",)),
    ("WS_URL", "WS://Host:80/a/, wss://[::1]:8443 \n", ("WS://Host:80/a/", "wss://[::1]:8443")),
    ("WS_URL", "ws://user:p%40ss@host", ("ws://user:p%40ss@host",)),
    ("REDIS_URL", "unix:///run/redis/redis.sock?db=2", "unix:///run/redis/redis.sock?db=2"),
    ("REDIS_URL", "unix://:p%40ss@/run/redis.sock", "unix://:p%40ss@/run/redis.sock"),
    ("REDIS_URL", "REDIS://user:p%3Fw@[::1]:6380/3\n", "redis://user:p%3Fw@[::1]:6380/3"),
    ("REDIS_URL", "rediss://h?ssl_cert_reqs=required", "rediss://h?ssl_cert_reqs=required"),
    ("DATABASE_URL", "host=/run/postgresql dbname=shop", "host=/run/postgresql dbname=shop"),
    ("DATABASE_URL", "host='a host' dbname=shop", "host='a host' dbname=shop"),
    ("DATABASE_URL", "POSTGRES://u:p%40@h/d\n", "postgresql://u:p%40@h/d"),
    ("DATABASE_URL", "postgresql+psycopg://h/d", "postgresql://h/d"),
    ("DATABASE_URL", "postgres://a:5432,b:5433/d?sslmode=require", "postgresql://a:5432,b:5433/d?sslmode=require"),
    ("DATABASE_URL", "postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
    ("HOST", "[::1]", "::1"),
    (
        "ALLOWED_HOSTS",
        "Shop.example:8080, [::1]:80, bücher.example",
        ("shop.example", "::1", "xn--bcher-kva.example"),
    ),
    ("ALLOWED_ORIGINS", "HTTPS://Shop.example:443/, http://a:81", ("https://shop.example", "http://a:81")),
]


@pytest.mark.parametrize(("variable", "value", "read"), READ)
def test_an_address_is_read_as_it_is_meant(variable: str, value: str, read: object) -> None:
    assert getattr(load(ListenerConfig, {variable: value}), variable.lower()) == read


REFUSED = [
    ("WS_URL", "ws://hunter2@/x", "ws://localhost:8080"),
    ("WS_URL", "ws://u:hunter2@host:0", "ws://localhost:8080"),
    ("WS_URL", "ws://u:hunter2@host:70000", "ws://localhost:8080"),
    ("WS_URL", "ws://u:hunter2@host/?x=1", "without ?"),
    ("REDIS_URL", "redis://:hunter2@h1:1,h2:2", "one host"),
    ("REDIS_URL", "redis://:hunter2@h:70000", "port"),
    ("REDIS_URL", "redis://:hunter2@h/shop", "number of a database"),
    ("REDIS_URL", "redis://:hunter2@h?ssl_cert_reqs=none", "rediss://"),
    ("REDIS_URL", "redis://:hunter2@h?decode_responses=true", "only"),
    ("REDIS_URL", "redis://:hunter2@h?db=x", "db"),
    ("REDIS_URL", "redis://:hunt er2@h", "%20"),
    ("REDIS_URL", "redis://:hunter2#@h", "%23"),
    ("REDIS_URL", "redis://[hunter2", "redis://"),
    ("REDIS_URL", "unix://run/hunter2.sock", "three slashes"),
    ("REDIS_URL", "http://:hunter2@h", "redis://"),
    ("DATABASE_URL", "postgres://u:hunter2@h:70000/d", "port"),
    ("DATABASE_URL", "postgres://u:hunter2%zz@h/d", "%-codes"),
    ("DATABASE_URL", "postgres://u:hunter2@h/d?frobnicate=1", "frobnicate is no parameter"),
    ("DATABASE_URL", "host=h password=hunter2 sslmode=maybe", "sslmode"),
    ("DATABASE_URL", "user=u password=hunter2", "host or a database"),
    ("HOST", "http://hunter2", "127.0.0.1"),
    ("ALLOWED_HOSTS", "https://shop.example", "without scheme"),
    ("ALLOWED_HOSTS", "*", "names of hosts"),
    ("ALLOWED_ORIGINS", "shop.example", "https://"),
    ("ALLOWED_ORIGINS", "https://shop.example/path", "https://"),
]


@pytest.mark.parametrize(("variable", "value", "reason"), REFUSED)
def test_what_cannot_work_is_one_line_with_the_setting_and_the_remedy(variable: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ListenerConfig, {variable: value})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"invalid value for {variable}")
    assert reason in line
    assert "hunter2" not in line or variable == "HOST"


def test_a_producer_needs_no_address_of_a_listener() -> None:
    assert load(ProducerConfig, {"DATABASE_URL": "nonsense"}).port == 8080


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://localhost:1", True), ("http://LOCALHOST", True), ("http://127.8.9.1", True), ("ws://[::1]:1", True),
        ("ws://[::ffff:127.0.0.1]", True), ("http://shop.localhost", True), ("http://128.0.0.1", False),
        ("http://localhost.example", False), ("http://10.0.0.1", False),
    ],
)  # fmt: skip
def test_loopback_is_localhost_and_every_address_of_the_loopback_interface(url: str, is_local: bool) -> None:
    assert is_loopback(url) == is_local
