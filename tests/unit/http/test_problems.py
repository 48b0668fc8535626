"""Problems are RFC 9457 JSON, and escape foreign text."""

from __future__ import annotations

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from oncecast.http.problems import Problem, json_response, on_http_error, on_problem


def test_a_problem_has_status_title_detail_and_headers() -> None:
    response = Problem(503, "the disk is slow", headers={"Retry-After": "1"}).response()
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"] == "application/problem+json"
    assert msgspec.json.decode(response.body) == {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the disk is slow",
    }


@pytest.mark.parametrize("text", ['"}\n<script>', "\x1b[2J", "\u2028"])
def test_foreign_text_is_escaped(text: str) -> None:
    body = Problem(422, text).body()
    assert msgspec.json.decode(body)["detail"] == text
    assert not set(body) & {0x0A, 0x1B}


async def test_starlettes_own_errors_become_problems_with_their_headers() -> None:
    request = Request({"type": "http", "app": Starlette()})

    class NotAllowed(Exception):
        status_code = 405
        headers = {"Allow": "GET"}  # noqa: RUF012

    answer = await on_http_error(request, NotAllowed())
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert (await on_problem(request, Problem(404, "no"))).status_code == 404


def test_raw_json_passes_unchanged() -> None:
    assert json_response({"n": msgspec.Raw(b"1.50")}).body == b'{"n":1.50}'
