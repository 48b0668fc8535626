"""What ingest accepts, PostgreSQL stores: an acknowledged event never ends dead for what it holds."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from oncecast.http.problems import Problem
from oncecast.producer.ingest import Bare, read_publication

NUMBERS = (
    *(
        "0e99999",
        "0e999999",
        "0e99999999999999999999",
        "0E+99999999999999999999",
        "-0.0e5",
        "1e308",
        "1e309",
        "1e-400",
    ),
    *("1e-16383", "1e-16384", "1E-16384", "0e-16384", "1.5e-16382", "1.5e-16383", "1e-9999999999999999999999", "-0"),
    *("0." + "0" * zeros + f"1e-{exponent}" for zeros in (15_382, 15_383, 15_990) for exponent in (0, 999, 1_000)),
    *("9" * digits for digits in (19, 20, 300, 310, 4_000)),
)
TIMES = (
    *("2016-12-31T23:59:60Z", "2016-12-31T23:59:60.0Z", "2016-12-31T23:59:60.5Z", "2016-12-31T12:30:60+01:00"),
    *("9999-12-31T23:59:59Z", "9999-12-31T23:59:60Z", "9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59-15:59"),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+15:59", "0001-01-01T00:00:00-15:59", "0000-01-01T00:00:00Z"),
    *(
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01t00:00:00.123456789012z",
        "2026-01-01T00:00:00-00:00",
    ),
    *("2026-01-01T00:00:00+16:00", "2026-01-01T00:00:00+15:59", "2026-01-01T00:00:00.5+05:30", "2026-01-01T00:00Z"),
)
DATA = (
    *('"\\u0000"', '"\\\\u0000"', '"\\\\\\u0000"', '{"x":"\\u0000","x":1}', '{"\\u0000":1}', '"\\ud83d\\ude00"'),
    *('"\\ud83d"', '"\\uffff\\ufffe"', "[" * 199 + "]" * 199, '{"x":' * 199 + "1" + "}" * 199),
    *NUMBERS,
)


def accepts(event: str) -> bool:
    try:
        read_publication(event.encode(), "application/json", Bare(), event_max_bytes=100_000)
    except Problem:
        return False
    return True


def stores(connection: psycopg.Connection[Any], query: str, value: str) -> bool:
    try:
        connection.execute(query, (value,)).fetchone()
    except psycopg.Error:
        return False
    return True


@pytest.fixture(scope="module")
def connection(postgres_url: str) -> Any:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("data", DATA, ids=lambda data: f"{data[:12]}…{data[-12:]}" if len(data) > 30 else data)
def test_accepted_data_is_taken_by_jsonb(connection: psycopg.Connection[Any], data: str) -> None:
    event = f'{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{data}}}'
    assert not accepts(event) or stores(connection, "select %s::jsonb", data)


@pytest.mark.parametrize("time", TIMES)
def test_an_accepted_time_is_taken_by_timestamptz_and_can_be_read_back(
    connection: psycopg.Connection[Any], time: str
) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": time}
    assert not accepts(json.dumps(event)) or stores(connection, "select %s::timestamptz", time)


def test_what_is_at_the_edge_is_accepted() -> None:
    event = '{"specversion":"1.0","id":"1","source":"/s","type":"t","data":%s}'
    assert all(accepts(event % data) for data in ("1e-16383", "0." + "0" * 15_382 + "1e-999", "0e99999", "9" * 300))
