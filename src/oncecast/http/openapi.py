"""Building blocks of OpenAPI 3.1 documents, and the routes that serve documents and their page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib import resources
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from oncecast.core.health import Status
from oncecast.http.problems import PROBLEM_TYPE, json_response
from oncecast.http.tokens import Right

Schema = Mapping[str, Any]
Operation = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
ANY: Schema = {}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"}


def maybe(schema: Schema) -> Schema:
    """Return the schema of a nullable value."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def listing(items: Schema, **limits: int) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items, **limits}


def record(_about: str = "", /, **members: Schema) -> Schema:
    """Return the schema of an object that has all of `members`, and perhaps others."""
    about = {"description": _about} if _about else {}
    return {"type": "object", **about, "properties": members, "required": list(members)}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def query(name: str, about: str, schema: Schema = TEXT) -> dict[str, Any]:
    """Return a query parameter."""
    return {"name": name, "in": "query", "description": about, "schema": schema}


def in_path(name: str, about: str, schema: Schema = NAME) -> dict[str, Any]:
    """Return a path parameter."""
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


def json_body(schema: Schema, about: str = "", example: object = None) -> dict[str, Any]:
    """Return the description of a JSON request body."""
    content = {"schema": schema, **({"example": example} if example is not None else {})}
    return {"required": True, "description": about, "content": {"application/json": content}}


def operation(
    name: str,
    summary: str,
    answer: Schema | None,
    *,
    tag: str,
    about: str = "",
    parameters: Iterable[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
    status: int = 200,
    content_type: str = "application/json",
    problems: Mapping[int, str] | None = None,
    right: Right | None = None,
) -> Operation:
    """Return the description of one method of one path; `problems` describes each error status."""
    refusals = {
        421: "The process does not answer this `Host`.",
        431: "The head is larger than `REQUEST_HEAD_MAX_BYTES`, or has too many headers.",
        **(problems or {}),
    }
    if right is not None:
        refusals[401] = f"The {right} token is missing or wrong."
    if right in ("publish", "admin"):
        refusals[403] = "A page of this origin may not write."
    content = {"content": {content_type: {"schema": answer}}} if answer is not None else {}
    made: Operation = {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "responses": {
            str(status): {"description": HTTPStatus(status).phrase, **content},
            **{str(code): _problem(text) for code, text in sorted(refusals.items())},
        },
    }
    if about:
        made["description"] = about
    if parameters:
        made["parameters"] = list(parameters)
    if body is not None:
        made["requestBody"] = dict(body)
    if right is not None:
        made["security"] = [{"bearer": []}, {}]
    return made


def _problem(about: str) -> dict[str, Any]:
    return {"description": about, "content": {PROBLEM_TYPE: {"schema": ref("Problem")}}}


def openapi(
    title: str, about: str, paths: Mapping[str, Mapping[str, Operation]], schemas: Mapping[str, Schema]
) -> dict[str, Any]:
    """Return a whole document."""
    problem = record("A problem as RFC 9457 describes it.", title=TEXT, status={"type": "integer"}, detail=TEXT)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("oncecast"), "description": about, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": {"Problem": problem, **schemas},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed if tokens are set: PUBLISH_TOKEN, SUBSCRIBE_TOKEN, ADMIN_TOKEN."
                    " The token of a listener includes the right to read.",
                }
            },
        },
    }


def document_routes(**documents: Mapping[str, Any]) -> list[BaseRoute]:
    """Return the routes of the documents, of `/docs`, which shows them, and of `/web`, the files of the pages."""
    web = resources.files("oncecast").joinpath("web")

    def serve(document: Mapping[str, Any]) -> Any:
        async def answer(_request: Request) -> Response:
            return json_response(document)

        return answer

    async def page(_request: Request) -> Response:
        return Response(web.joinpath("docs.html").read_bytes(), media_type="text/html; charset=utf-8")

    return [
        *(Route(f"/{name}.json", serve(document), methods=["GET"]) for name, document in documents.items()),
        Route("/docs", page, methods=["GET"]),
        Mount("/web", StaticFiles(directory=str(web))),
    ]


_STATUS = {
    "status": {"enum": [str(status) for status in Status]},
    "since": TIME,
    "reason": maybe(TEXT),
    "remedy": maybe(TEXT),
}
STATUS: Mapping[str, Schema] = {
    **_STATUS,
    "parts": {"type": "object", "additionalProperties": record(**_STATUS)},
}
"""The health of a process, which is that of its worst part, and of each part."""
HEALTH = {
    "/livez": {
        "get": operation(
            "livez",
            "Check whether the process needs a restart",
            record(status=TEXT),
            tag="Health",
            problems={503: "An essential task has ended or is stalled: restart the process."},
        ),
    },
    "/metrics": {
        "get": operation(
            "metrics",
            "Return the metrics in the Prometheus format",
            TEXT,
            tag="Health",
            content_type="text/plain; version=0.0.4; charset=utf-8",
        ),
    },
}
"""The health paths of producers and listeners."""

DOCUMENTS = {
    "/openapi.json": {
        "get": operation("openapi", "Return the OpenAPI document", {"type": "object"}, tag="Documents"),
    },
}
