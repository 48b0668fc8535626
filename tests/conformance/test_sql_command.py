from __future__ import annotations

import io
from pathlib import Path

import msgspec
import psycopg
import pytest

from oncecast.cli.stack.sql import sql
from oncecast.core.errors import ConfigError, Unavailable


@pytest.fixture
def data(tmp_path: Path, postgres_url: str) -> Path:
    """The folder of a stack whose PostgreSQL is the tests'."""
    (tmp_path / "postgres.url").write_text(postgres_url)
    return tmp_path


@pytest.fixture
def table(schema: str, postgres_url: str) -> str:
    """A table of this test's own: a whole number, a fraction, a text, JSON, a time."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        connection.execute(f"create table {schema}.t (n bigint, f float8, w text, j jsonb, at timestamptz)")
    return f"{schema}.t"


def test_rows_are_json_objects_for_programs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is an object by the names of its columns; what JSON has no word for is text."""
    sql(
        "select 12345 as n, 0.54::float8 as f, 1.50 as d, null as nothing, true as yes, 'ü' as w,"
        " '{\"a\": [1]}'::jsonb as j, timestamptz '2026-01-02 03:04:05+00' as at, interval '1 day' as i"
        " union all select 2, 1, 2, null, false, '', 'null', null, null",
        data=data,
        json=True,
    )
    first, second = map(msgspec.json.decode, capsys.readouterr().out.splitlines())
    assert first == {
        "n": 12345,
        "f": 0.54,
        "d": "1.50",
        "nothing": None,
        "yes": True,
        "w": "ü",
        "j": {"a": [1]},
        "at": "2026-01-02T03:04:05Z",
        "i": "P1D",
    }
    assert (second["n"], second["yes"], second["at"]) == (2, False, None)


def test_rows_are_a_table_for_people_and_nothing_is_rounded(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers keep their fraction, bytes are hexadecimal, and nothing can move the terminal's cursor."""
    sql("select 12345 as n, 0.54::float8 as f, '\\x01ff'::bytea as b, E'a\\x1b[2Jb' as w", data=data, json=False)
    header, values = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    assert header == ["n", "f", "b", "w"]
    assert values == ["12,345", "0.54", "\\x01ff", "a\N{REPLACEMENT CHARACTER}[2Jb"]


def test_what_brings_no_rows_tells_how_many_it_touched(
    data: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A count for people, an object for programs, 'Done.' where there is nothing to count."""
    sql(f"insert into {table} (n) values (1), (2)", data=data, json=False)
    sql(f"delete from {table} where n = 1", data=data, json=False)
    sql(f"update {table} set n = 3", data=data, json=True)
    sql(f"alter table {table} add extra text", data=data, json=True)
    sql(f"drop table {table}", data=data, json=False)
    assert capsys.readouterr().out.splitlines() == ["2 rows.", "1 row.", '{"rows":1}', '{"rows":null}', "Done."]


def test_several_statements_are_one_transaction_and_the_result_of_each_is_shown(
    data: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that fails leaves nothing of those before it."""
    sql(f"insert into {table} (n) values (1); select n from {table}", data=data, json=True)
    assert capsys.readouterr().out.splitlines() == ['{"rows":1}', '{"n":1}']
    with pytest.raises(ConfigError, match="division by zero"):
        sql(f"insert into {table} (n) values (2); select 1 / 0", data=data)
    sql(f"select count(*) as n from {table}", data=data, json=True)
    assert capsys.readouterr().out.splitlines() == ['{"n":1}']


def test_a_percent_sign_is_sql(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There are no parameters, so nothing stands for one."""
    sql("select 'order.created' like 'order.%' as fits", data=data, json=True)
    assert capsys.readouterr().out == '{"fits":true}\n'


def test_sql_comes_from_a_file_or_from_standard_input_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`@FILE` and `-`, as elsewhere."""
    (tmp_path / "it.sql").write_text("select 1 as n")
    monkeypatch.setattr("sys.stdin", io.StringIO("select 2 as n"))
    sql(f"@{tmp_path}/it.sql", data=data, json=True)
    sql("-", data=data, json=True)
    assert capsys.readouterr().out == '{"n":1}\n{"n":2}\n'
    with pytest.raises(ConfigError, match=r"cannot read '/nowhere\.sql'"):
        sql("@/nowhere.sql", data=data)


def test_times_and_intervals_are_shown_whatever_the_settings_of_role_and_environment(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
    monkeypatch.setenv("PGOPTIONS", "-c IntervalStyle=iso_8601 -c extra_float_digits=-15")
    sql("select timestamptz '2026-01-02 03:04:05Z' as at, interval '90 s' as span, 0.1::float8 as n", data=data)
    assert capsys.readouterr().out == '{"at":"2026-01-02T03:04:05Z","span":"PT90S","n":0.1}\n'


def test_wrong_sql_is_one_line_that_says_where(data: Path) -> None:
    """PostgreSQL's own words, with the place and its hint."""
    with pytest.raises(ConfigError, match=r"syntax error at or near \"selec\" \(at character 1\)"):
        sql("selec 1", data=data)
    with pytest.raises(ConfigError, match=r"^function lenght\(unknown\) does not exist .*; .+"):
        sql("select lenght('a')", data=data)


def test_without_a_stack_database_url_is_asked_and_the_stack_comes_first(
    tmp_path: Path, data: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody's own database is touched where a stack's is meant."""
    monkeypatch.delenv("DATABASE_URL_FILE", raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgres://nobody:s3cret@127.0.0.1:1/nothing")
    sql("select 1 as n", data=data, json=True)
    with pytest.raises(Unavailable) as refused:
        sql("select 1", data=tmp_path / "elsewhere")
    assert "s3cret" not in str(refused.value)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    sql("select 2 as n", data=tmp_path / "elsewhere", json=True)
    assert capsys.readouterr().out == '{"n":1}\n{"n":2}\n'
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(ConfigError, match=r"no stack has run in .*: begin one by 'oncecast up'"):
        sql("select 1", data=tmp_path / "elsewhere")
