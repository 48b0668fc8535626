"""Write the reference pages of docs/reference from the code: `make reference`.

Settings come from `oncecast.config`, commands from the command line itself, metrics from `oncecast.observe.metrics`,
HTTP requests from the two OpenAPI documents, and the Python API from signatures and docstrings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import oncecast
import oncecast.testing
from oncecast.cli.commands import app as command_line
from oncecast.config import Common, ListenerConfig, ProducerConfig
from oncecast.listener.http.app import right_for as listener_right
from oncecast.listener.http.openapi import listener_document
from oncecast.observe.catalogue import CATALOGUE
from oncecast.producer.api_document import producer_document
from oncecast.producer.app import right_for as producer_right

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by `make reference` from the code: do not edit. -->\n"
SETTINGS = f"""# Settings

{NOTE}
A process reads a setting from its flag (`--journal-path`), else from the environment (`JOURNAL_PATH`), else from the
file that `JOURNAL_PATH_FILE` names, else it uses the default. All settings are checked together at the start; each
wrong setting is reported on one line. The commands `producer` and `listener` have flags for the most common settings:
see [Command line](cli.md).

Durations are `500ms`, `2s`, `1m`, `12h` or `7d`; a number without a unit is in seconds. Sizes are `64KiB`, `32MiB`,
`1GiB` or a number of bytes.
"""
METRICS = f"""# Metrics

{NOTE}
Every producer and listener serves its metrics in the Prometheus format at `/metrics`, and the usual `process_*`
metrics of its process. After a restart, counters begin at 0. The label `type` is the type of events: at most 50
different ones per process, `other` for the rest. Numbers of a whole group come from PostgreSQL and are at most ten
seconds old; each listener of the group shows them, so take the maximum. [Monitor](../how-to/monitor.md) has alert
rules and a dashboard.

"""
HTTP = f"""# HTTP API

{NOTE}
Producers listen on port 8080 by default, listeners on port 3001. Each serves its OpenAPI document at `/openapi.json`
and a page for it at `/docs`. A producer serves the AsyncAPI document of its WebSocket at `/asyncapi.json`. Errors are
[RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problems with the members `title`, `status` and `detail`. If the
process has tokens, send one as `Authorization: Bearer …`.

In the answers below, `?` marks a member that may be null.
"""
BOTH = """A producer relays the requests about dead letters and conflicts to a connected listener. Only a producer has
the parameter `group`, and the statuses 502 and 504."""
PYTHON = f"""# Python API

{NOTE}
Everything in `oncecast` and `oncecast.testing` that this page does not name is private, and may change in any
release.
"""


PUBLIC = [getattr(module, name) for module in (oncecast, oncecast.testing) for name in module.__all__]
OF_USERS: dict[type[Any], set[str]] = {oncecast.App: {"on", "on_batch", "middleware"}}
"""The public members of classes that have internal ones, too."""


def pages() -> dict[str, Callable[[], str]]:
    """Return the function that writes each page, by the name of its file."""
    return {"settings.md": settings, "cli.md": commands, "metrics.md": metrics, "http.md": http, "python.md": python}


def main() -> None:
    """Write all pages."""
    for name, write in pages().items():
        (FOLDER / name).write_text(write(), "utf-8")


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


# --- settings ---------------------------------------------------------------------------------------------


def settings() -> str:
    """Return the page of all settings."""
    common = {item.name for item in dataclasses.fields(Common)}
    parts = [SETTINGS]
    for title, kind in (
        ("Producer and listener", Common),
        ("Producer", ProducerConfig),
        ("Listener", ListenerConfig),
    ):
        rows = [
            (
                f"`{item.name.upper()}`",
                f"`{item.metadata['default']}`" if item.metadata["default"] else "",
                item.metadata["about"],
            )
            for item in dataclasses.fields(kind)
            if kind is Common or item.name not in common
        ]
        parts.append(f"\n## {title}\n\n{_table(('setting', 'default', 'meaning'), rows)}")
    return "".join(parts)


# --- commands ---------------------------------------------------------------------------------------------


def commands() -> str:
    """Return the page of all commands, as the library of the command line describes them."""
    text = command_line.generate_docs(output_format="markdown")
    text = re.sub(r"\A# oncecast\n", f"# Command line\n\n{NOTE.rstrip()}\n", text)
    text = re.sub(r"^## Table of Contents\n.*?(?=^\*\*)", "", text, flags=re.M | re.S)
    return text.rstrip() + "\n"


# --- metrics ----------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return the page of all metrics."""
    rows = [
        (f"`{m.name}`", m.kind, " and ".join(m.processes), ", ".join(f"`{label}`" for label in m.labels), m.text)
        for m in CATALOGUE
    ]
    return METRICS + _table(("metric", "type", "process", "labels", "meaning"), rows)


# --- HTTP -------------------------------------------------------------------------------------------------


def http() -> str:
    """Return the page of all requests of producers and listeners."""
    producer, listener = producer_document(producer_right), listener_document(listener_right)
    of_producer, of_listener = _operations(producer), _operations(listener)
    both = {name: made for name, made in of_producer.items() if _answer(made) == _answer(of_listener.get(name, {}))}
    parts = [HTTP]
    for title, about, operations in (
        ("Producer", producer["info"]["description"], of_producer),
        ("Listener", listener["info"]["description"], of_listener),
        ("Producer and listener", BOTH, both),
    ):
        about = re.sub(r"\[(.*?)\]\(/.*?\)", r"`/\1`", about)  # a link that only the process itself serves
        parts.append(f"\n## {title}\n\n{about}\n")
        parts += [_operation(n, made) for n, made in operations.items() if operations is both or n not in both]
    parts.append("\n## Schemas\n")
    for name, schema in sorted((producer["components"]["schemas"] | listener["components"]["schemas"]).items()):
        about = f"{schema['description']}\n\n" if "description" in schema else ""
        parts.append(f"\n### {name}\n\n{about}```text\n{_shape(schema, indent=True)}\n```\n")
    return "".join(parts)


def _operations(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each request does, by `GET /path`."""
    paths = document["paths"].items()
    return {f"{method.upper()} {path}": made for path, methods in paths for method, made in methods.items()}


def _answer(made: Mapping[str, Any]) -> object:
    """Return what an operation answers when all goes well."""
    return {status: answer for status, answer in made.get("responses", {}).items() if status.startswith("2")}


def _operation(name: str, made: Mapping[str, Any]) -> str:
    parts = [f"\n### {name}\n\n{made['summary']}.\n"]
    if "description" in made:
        parts.append(f"\n{made['description']}\n")
    if made["parameters"]:
        rows = [
            (f"`{p['name']}`", p["in"], f"`{_shape(p['schema'])}`", p.get("description", ""))
            for p in made["parameters"]
        ]
        parts.append("\n" + _table(("parameter", "in", "type", "meaning"), rows))
    if "requestBody" in made:
        parts.append(f"\nBody. {made['requestBody'].get('description', '')}".rstrip() + "\n\n")
        for kind, content in made["requestBody"]["content"].items():
            parts.append(f"- `{kind}`: `{_shape(content['schema'])}`\n")
            if isinstance(content.get("example"), dict):
                parts.append(f"  For example `{json.dumps(content['example'])}`\n")
    answers: list[Sequence[object]] = []
    for status, answer in made["responses"].items():
        shape = "".join(
            f" `{_shape(c['schema'])}`" for kind, c in answer.get("content", {}).items() if "problem" not in kind
        )
        answers.append((status, answer["description"] + shape))
    parts.append("\n" + _table(("status", "answer"), answers))
    return "".join(parts)


def _shape(schema: Mapping[str, Any], *, indent: bool = False) -> str:
    """Return a schema as people write examples: `{"id": string, "next": string?}`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            shapes = [_shape(each, indent=indent) for each in schema[several] if each.get("type") != "null"]
            return " or ".join(shapes) + ("?" if len(shapes) < len(schema[several]) else "")
    kinds = schema.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    mark = "?" if "null" in kinds else ""
    return " or ".join(_kind(kind, schema, indent) for kind in kinds if kind != "null") + mark


def _kind(kind: str, schema: Mapping[str, Any], indent: bool) -> str:
    if kind == "array":
        return f"[{_shape(schema.get('items', {}))}, …]"
    if kind != "object" or not schema.get("properties"):
        return kind
    members = [f'"{name}": {_shape(each)}' for name, each in schema["properties"].items() if each is not False]
    return "{\n" + "".join(f"  {member}\n" for member in members) + "}" if indent else f"{{{', '.join(members)}}}"


# --- Python -----------------------------------------------------------------------------------------------


def python() -> str:
    """Return the page of all public names."""
    parts = [PYTHON]
    for module in (oncecast, oncecast.testing):
        parts.append(f"\n## {module.__name__}\n\n{_prose(module.__doc__)}")
        for name in sorted(module.__all__):
            parts.append(f"\n### {name}\n\n{_named(name, getattr(module, name))}")
    return "".join(parts)


def _named(name: str, value: Any) -> str:
    if not inspect.isclass(value):
        shown = re.sub(r"\b(?:typing|collections\.abc|oncecast(?:\.\w+)*)\.", "", str(value))
        return f"```python\n{name} = {shown}\n```\n"
    source = textwrap.dedent(inspect.getsource(value))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    base = next(each for each in value.__mro__[1:] if each in PUBLIC or each.__module__ == "builtins")
    lines = [f"class {name}:" if base is object else f"class {name}({base.__name__}):"]
    parts = []
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            lines.append(f"    {ast.get_source_segment(source, member)}")
        elif isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            about = (ast.get_docstring(member) if not member.name.startswith("_") else None) or "See"
            if member.name == "__init__":
                lines.append(textwrap.indent(_header(source, member), "    "))
            elif member.name in OF_USERS.get(value, {member.name}) and not about.startswith("See"):
                shown = _header(source, member)
                parts.append(f"#### {name}.{member.name}\n\n```python\n{shown}\n```\n\n{_prose(about)}")
    if len(lines) == 1:
        lines = [lines[0].removesuffix(":")]
    return "\n".join(["```python", *lines, "```", "", _prose(value.__doc__), *parts])


def _header(source: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return a function without its body, as it is laid out in the source."""
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : node.body[0].lineno - 1])).removesuffix(":")


def _prose(text: str | None) -> str:
    """Return a docstring as Markdown: its doctests become blocks of code."""
    lines: list[str] = []
    in_code = False
    for line in inspect.cleandoc(text or "").splitlines():
        is_code = line.startswith((">>>", "..."))
        if is_code != in_code:
            lines += ["```python"] if is_code else ["```"]
            in_code = is_code
        lines.append(line[4:] if is_code else line)
    return "\n".join([*lines, "```"] if in_code else lines) + "\n"


if __name__ == "__main__":
    main()
