"""Markers of rules in the code, and the changes that plant a fault below one.

A marker is a comment that states a rule, on a line of its own, above the statement that enforces the rule:

    # rule: only a proven death is charged
    died = sessions is Sessions.NONE

In SQL and Lua it begins with `--`, and stands above a clause, which ends with the line that closes its parentheses.
A change names no line of the code, and as few identifiers as possible, so that a fault survives renames.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

PACKAGE = Path(__file__).parents[2] / "src/oncecast"
MARKER = re.compile(r"^ *(?:#|--) rule: (.+)$")
CLAUSE = re.compile(
    r"(?P<word>\s*(?:if|elseif|when|where|and|or)\s+)(?P<condition>.*?)(?P<rest>\s+then\b.*)?", re.DOTALL
)
KNOWN = {"_", "Event", "ensure_future", "hex", "uuid4", "wait", *dir(builtins)}
"""Names that a change may add to a file."""

Nodes = ast.AST | list[ast.stmt]
Kind = TypeVar("Kind", bound=ast.AST)


@dataclass(frozen=True, slots=True)
class Marker:
    """The marker of `rule` in `path`, above the line number `line`."""

    rule: str
    path: Path
    line: int


def _only_python(clause: str) -> str:
    raise ValueError(f"this change is for Python code only: {clause!r}")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a Python statement, and of a clause of SQL or Lua."""

    of_node: Callable[[ast.AST], Nodes]
    of_clause: Callable[[str], str] = _only_python


@cache
def markers() -> Sequence[Marker]:
    """Return every marker in the package. Consecutive markers are above the same statement."""
    found: list[Marker] = []
    for path in sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".sql", ".lua")):
        rules: list[str] = []
        for line, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if marker := MARKER.match(text):
                rules.append(marker[1])
                continue
            found.extend(Marker(rule, path, line) for rule in rules)
            rules.clear()
    return found


def changed(marker: Marker, change: Change) -> str:
    """Return the file with the change; raise ValueError if it cannot be applied."""
    text = marker.path.read_text("utf-8")
    if marker.path.suffix == ".py":
        return _python_changed(text, marker.line, change)
    return _clause_changed(text, marker.line, change)


def skip() -> Change:
    """Remove the statement or clause."""
    return Change(lambda _: ast.Pass(), lambda _: "")


def always(when: str = "True") -> Change:
    """Evaluate the condition or value, and use true instead whenever `when` is true."""
    return Change(
        _on_value(lambda value: _expression(f"({ast.unparse(value)}) or ({when})")), _on_condition("or true")
    )


def never(when: str = "True") -> Change:
    """Evaluate the condition or value, and use false instead whenever `when` is true."""
    return Change(
        _on_value(lambda value: _expression(f"({ast.unparse(value)}) and not ({when})")), _on_condition("and false")
    )


def without(operand: int) -> Change:
    """Remove one operand of the outermost `and` or `or`."""

    def of_value(value: ast.expr) -> ast.expr:
        del _first(value, ast.BoolOp).values[operand]
        return value

    return Change(_on_value(of_value))


def unfiltered() -> Change:
    """Remove the conditions of the comprehension."""

    def of_value(value: ast.expr) -> ast.expr:
        for loop in _first(value, ast.ListComp).generators:
            loop.ifs.clear()
        return value

    return Change(_on_value(of_value))


def argument() -> Change:
    """Replace the outermost call by its first argument."""
    return Change(_on_value(lambda value: _first(value, ast.Call).args[0]))


def value(code: str) -> Change:
    """Replace the value that is assigned, returned or evaluated by `code`, in which `{}` is the original value."""
    return Change(_on_value(lambda former: _expression(code.replace("{}", f"({ast.unparse(former)})"))))


def unawaited(result: str) -> Change:
    """Do not await: run it in the background, and use `result` at once."""

    def of_value(value: ast.expr) -> ast.expr:
        call = ast.unparse(_first(value, ast.Await).value)
        return _expression(f"__import__('asyncio').ensure_future({call}) and {result}")

    return Change(_on_value(of_value))


def hang() -> Change:
    """Await forever."""
    return instead("await __import__('asyncio').Event().wait()")


def ignoring_errors() -> Change:
    """Ignore errors of the statement."""

    def of_node(node: ast.AST) -> Nodes:
        (tried,) = _statements("try: pass\nexcept Exception: pass")
        assert isinstance(tried, ast.Try)
        assert isinstance(node, ast.stmt)
        tried.body = [node]
        return tried

    return Change(of_node)


def body_only() -> Change:
    """Run the body of the `with` statement without its context."""

    def of_node(node: ast.AST) -> Nodes:
        assert isinstance(node, ast.With | ast.AsyncWith)
        return node.body

    return Change(of_node)


def replaced(old: str, new: str) -> Change:
    """Replace `old`, which occurs once in the statement or clause, by `new`."""

    def of_text(text: str) -> str:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} is {text.count(old)} times in {text!r}")
        return text.replace(old, new)

    return Change(lambda node: _statements(of_text(ast.unparse(node))), of_text)


def instead(code: str) -> Change:
    """Replace the statement by `code`."""
    return Change(lambda _: _statements(code))


def _python_changed(text: str, line: int, change: Change) -> str:
    tree = ast.parse(text)
    names = _names(tree)
    changer = _Changer(line, change.of_node)
    changer.visit(tree)
    if changer.of_node is not None:
        raise ValueError(f"no statement begins on line {line}")
    if unknown := _names(tree) - names - KNOWN:
        raise ValueError(f"names that the file does not have: {', '.join(sorted(unknown))}")
    return ast.unparse(tree)


class _Changer(ast.NodeTransformer):
    """Changes the outermost node that begins on `line`."""

    def __init__(self, line: int, of_node: Callable[[ast.AST], Nodes]) -> None:
        self.line = line
        self.of_node: Callable[[ast.AST], Nodes] | None = of_node

    def visit(self, node: ast.AST) -> Nodes:
        if self.of_node is None or getattr(node, "lineno", 0) != self.line:
            result: Nodes = self.generic_visit(node)
            return result
        of_node, self.of_node = self.of_node, None
        return of_node(node)


def _on_value(of_value: Callable[[ast.expr], ast.expr]) -> Callable[[ast.AST], Nodes]:
    """Apply to the condition of an `if` or `while`, or to the value of another statement."""

    def of_node(node: ast.AST) -> Nodes:
        name = "test" if isinstance(node, ast.If | ast.While | ast.IfExp) else "value"
        setattr(node, name, of_value(getattr(node, name)))
        return node

    return of_node


def _on_condition(addition: str) -> Callable[[str], str]:
    def of_clause(clause: str) -> str:
        found = CLAUSE.fullmatch(clause)
        if found is None:
            raise ValueError(f"no condition: {clause!r}")
        return f"{found['word']}(({found['condition']}) {addition}){found['rest'] or ''}"

    return of_clause


def _clause_changed(text: str, line: int, change: Change) -> str:
    lines = text.splitlines()
    begin, end = line - 1, line
    while (clause := "\n".join(lines[begin:end])).count("(") > clause.count(")"):
        end += 1
    return "\n".join([*lines[:begin], change.of_clause(clause), *lines[end:]]) + "\n"


def _names(tree: ast.AST) -> set[str]:
    nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.Constant)]
    return {name for node in nodes for _, name in ast.iter_fields(node) if isinstance(name, str)}


def _first(node: ast.AST, kind: type[Kind]) -> Kind:
    found = next((each for each in ast.walk(node) if isinstance(each, kind)), None)
    if found is None:
        raise ValueError(f"no {kind.__name__} in {ast.unparse(node)}")
    return found


def _expression(code: str) -> ast.expr:
    return ast.parse(code, mode="eval").body


def _statements(code: str) -> list[ast.stmt]:
    return ast.parse(code).body
