"""Build OpenAPI 3.1 documents from typed structs, and serve documents and their page."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from oncecast.core.dead_letters import ShortText, Time
from oncecast.http.problems import PROBLEM_TYPE, ProblemDetails, json_response
from oncecast.http.tokens import Right

RightFor = Callable[[Scope], Right | None]
Schema = Any
"""A type that msgspec describes, or a JSON Schema that may contain such types."""

REF = "#/components/schemas/{name}"
CursorText = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9A-Za-z]+:[0-9]{1,18}$"})]
EventDocument = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": REF.format(name="Event")})]
"""An event in its structured form, undecoded."""
EVENT = {
    "type": "object",
    "description": "A CloudEvents 1.0 event in its structured form.",
    "properties": {
        "specversion": {"const": "1.0"},
        **dict.fromkeys(("id", "source", "type"), ShortText),
        **dict.fromkeys(("subject", "datacontenttype", "dataschema"), ShortText | None),
        "time": Time | None,
        "data": Any,
        "data_base64": {
            "type": ["string", "null"],
            "contentEncoding": "base64",
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        },
    },
    "required": ["specversion", "id", "source", "type"],
    "not": {"required": ["data", "data_base64"]},
    "propertyNames": {"pattern": "^([a-z0-9]{1,64}|data_base64)$"},
    "additionalProperties": {
        "description": "Extension attributes.",
        "type": ["string", "boolean", "integer", "null"],
        "maxLength": 65_536,
        "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
        "minimum": -(2**31),
        "maximum": 2**31 - 1,
    },
}
IN_PATH = {
    "id": "The event's id.",
    "cursor": "The conflict's cursor.",
    "name": "The group's name.",
    "group": "The group's name.",
    "instance": "The name of the listener.",
}
AWAY: Mapping[int, str] = {503: "PostgreSQL is down, or no listener can answer: retry later."}


@dataclass(frozen=True, slots=True)
class Operation:
    """A request: `name` is unique in its document, and `answer` is what it answers with the status 200.

    `parameters` are those of the query and of headers; `body` is the type of a JSON body, or a mapping from media
    types to their descriptions. `problems` describes error statuses in addition to the usual ones, and `also` other
    statuses with the same answer.
    """

    name: str
    summary: str
    answer: Schema
    about: str = ""
    parameters: Sequence[Mapping[str, Any]] = ()
    body: Schema = None
    problems: Mapping[int, str] = field(default_factory=dict)
    status: int = 200
    also: Mapping[int, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def describe(self, tag: str, path: str, right: Right | None) -> dict[str, Any]:
        """Return the description; the request needs `right`."""
        in_path = [
            {"name": name, "in": "path", "required": True, "description": IN_PATH[name], "schema": ShortText}
            for name in re.findall(r"{(\w+)}", path)
        ]
        answers = {self.status: HTTPStatus(self.status).phrase, **self.also}
        answer = {"content": {self.content_type: {"schema": self.answer}}}
        problem = {"content": {PROBLEM_TYPE: {"schema": ProblemDetails}}}
        responses = {
            **{code: {"description": text, **problem} for code, text in self._problems(right).items()},
            **{code: {"description": text, **answer} for code, text in answers.items()},
        }
        made: dict[str, Any] = {
            "operationId": self.name,
            "tags": [tag],
            "summary": self.summary,
            "parameters": [*in_path, *self.parameters],
            "responses": {str(code): responses[code] for code in sorted(responses)},
        }
        if self.about:
            made["description"] = self.about
        if self.body is not None:
            json = {"schema": self.body, "example": getattr(self.body, "EXAMPLE", {})}
            made["requestBody"] = {
                "required": True,
                "content": self.body if isinstance(self.body, Mapping) else {"application/json": json},
            }
        if right is not None:
            made["security"] = [{"bearer": []}, {}]
        return made

    def _problems(self, right: Right | None) -> dict[int, str]:
        found = {
            421: "The process does not answer this `Host`.",
            431: "The head is larger than `REQUEST_HEAD_MAX_BYTES`, or has too many headers.",
        }
        if self.parameters:
            found[400] = "A parameter cannot be read."
        if self.body is not None:
            found[400] = "A parameter or the body cannot be read."
            found[408] = "The body did not arrive in time."
            found[413] = "The body is too large."
            found[422] = "The body is invalid."
        if right is not None:
            found[401] = f"The {right} token is missing or wrong."
        if right in ("publish", "admin"):
            found[403] = "A page of this origin may not write."
        return {**found, **self.problems}


def json_object(**members: Schema) -> Schema:
    """Return the schema of an object that has all of `members`."""
    return {"type": "object", "properties": members, "required": list(members)}


def query(name: str, about: str, schema: Schema = str) -> dict[str, Any]:
    """Return a query parameter."""
    return {"name": name, "in": "query", "description": about, "schema": schema}


def query_of(kind: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """Return the members of a struct as query parameters. A query has no null."""
    found = []
    for name, schema in msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"].items():
        about, default = schema.pop("description"), schema.pop("default")
        schema |= schema.pop("anyOf", ({},))[0]
        found.append(query(name, about, schema if default in (None, ()) else {**schema, "default": default}))
    return found


LIMIT = query(
    "limit", "The maximum number of entries.", Annotated[int, Meta(ge=1, le=1000, extra_json_schema={"default": 100})]
)
PAGE = [LIMIT, query("after", "The `next` value of the previous page.")]
SOURCE = query("source", "The event's source; needed if several sources have this id.", ShortText)
Operations = Mapping[str, Mapping[str, Operation]]
"""Operations by their tag, and by a name such as "GET /path"."""


def openapi(title: str, about: str, right_for: RightFor, operations: Operations) -> dict[str, Any]:
    """Return a whole document; `right_for` returns the right that a request needs."""
    components: dict[str, Any] = {}
    paths: dict[str, Any] = defaultdict(dict)
    for tag, of_tag in operations.items():
        for name, operation in of_tag.items():
            method, path = name.split()
            right = right_for({"type": "http", "method": method, "path": path})
            paths[path][method.lower()] = resolved(operation.describe(tag, path, right), components)
    components["Event"] = resolved(EVENT, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("oncecast"), "description": about, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": components,
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


def resolved(value: Schema, components: dict[str, Any]) -> Any:
    """Return `value` with the schemas of its types; add those of structs to `components`."""
    if isinstance(value, Mapping):
        return {key: resolved(member, components) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(member, components) for member in value]
    if isinstance(value, str | int | float | None):
        return value
    (schema,), found = msgspec.json.schema_components([value], ref_template=REF)
    components |= msgspec.json.decode(msgspec.json.encode(found))  # a default may be a tuple
    return schema


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


def process_operations(kind: str, ready: str, health: Schema) -> Operations:
    """Return the requests about the health of a `kind` of process, and for its OpenAPI document."""
    return {
        "Health": {
            "GET /health": Operation("health", f"Show the health of the {kind}", health),
            "GET /readyz": Operation(
                "readyz",
                f"Check whether the {kind} {ready}",
                health,
                also={503: "The process is down or draining; `reason` says why."},
            ),
            "GET /livez": Operation(
                "livez",
                "Check whether the process needs a restart",
                json_object(status=str),
                problems={503: "An essential task has ended or is stalled: restart the process."},
            ),
            "GET /metrics": Operation(
                "metrics",
                "Return the metrics in the Prometheus format",
                str,
                content_type="text/plain; version=0.0.4; charset=utf-8",
            ),
        },
        "Documents": {
            "GET /openapi.json": Operation("openapi", "Return the OpenAPI document", {"type": "object"}),
        },
    }
