"""Inspect type hints: the types of fields and arguments, and the metadata of `Annotated`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

_PYDANTIC_NAMES = ("__pydantic_core_schema__", "__pydantic_validator__", "__get_pydantic_core_schema__")
_PYDANTIC_MODULES = ("pydantic", "pydantic_core", "annotated_types")


def bare(wanted: Any) -> Any:
    """Return `wanted` without an `Annotated` around it."""
    return typing.get_args(wanted)[0] if typing.get_origin(wanted) is Annotated else wanted


def named(wanted: Any) -> str:
    """Return the name of `wanted` for people."""
    return getattr(bare(wanted), "__name__", None) or str(bare(wanted))


def checks_of(wanted: Any) -> list[Any]:
    """Return the checks for msgspec or pydantic in an `Annotated` around `wanted`."""
    metadata = typing.get_args(wanted)[1:] if typing.get_origin(wanted) is Annotated else ()
    return [part for part in metadata if isinstance(part, msgspec.Meta) or is_pydantic(part)]


def parts_of(wanted: Any) -> list[Any]:
    """Return `wanted`, all types in it and their `Annotated` metadata; the parts of pydantic's types are left out.

    Raises NameError for an undefined name in an annotation.
    """
    found: dict[int, Any] = {}
    left = [wanted]
    while left:
        part = left.pop()
        if id(part) not in found:
            found[id(part)] = part  # keeps the object alive, so that its id is not reused
            left += _inner(part)
    return list(found.values())


def is_pydantic(part: Any) -> bool:
    """Return whether only pydantic can interpret this type or metadata."""
    module: str = getattr(part if isinstance(part, type) else type(part), "__module__", "")
    return module.partition(".")[0] in _PYDANTIC_MODULES or any(hasattr(part, name) for name in _PYDANTIC_NAMES)


def unserved(wanted: Any) -> Iterator[tuple[str, type]]:
    """Yield the types in `wanted` that msgspec cannot decode, each with its field (empty if there is none).

    Raises TypeError for a type that msgspec refuses as a whole, NameError for an undefined name in an annotation.
    """
    seen: set[int] = set()

    def within(info: Any, place: str) -> Iterator[tuple[str, type]]:
        if id(info) in seen:
            return
        seen.add(id(info))
        if isinstance(info, msgspec.inspect.CustomType) and info.cls is not object:
            yield place, info.cls
        for name in info.__struct_fields__:
            value = getattr(info, name)
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, msgspec.inspect.Field):
                    yield from within(inner.type, f"{named(info.cls)}.{inner.name}")
                elif isinstance(inner, msgspec.inspect.Type):
                    yield from within(inner, place)

    return within(msgspec.inspect.type_info(wanted), "")


def _inner(part: Any) -> Iterator[Any]:
    if is_pydantic(part):
        return
    yield from typing.get_args(part)
    for name in ("__value__", "__supertype__"):  # of a `type` alias, of a NewType
        if hasattr(part, name):
            yield getattr(part, name)
    shape = typing.get_origin(part) or part
    if isinstance(shape, type) and _has_fields(shape):
        for hint in typing.get_type_hints(shape, include_extras=True).values():
            if typing.get_origin(hint) is not typing.ClassVar:
                yield hint
    if isinstance(shape, type) and dataclasses.is_dataclass(shape):
        yield from (field.default for field in dataclasses.fields(shape))  # such as `pydantic.Field(gt=0)`


def _has_fields(shape: type) -> bool:
    return (
        dataclasses.is_dataclass(shape)
        or hasattr(shape, "__required_keys__")  # a TypedDict, of typing or typing_extensions
        or issubclass(shape, msgspec.Struct)
        or hasattr(shape, "__attrs_attrs__")
        or (issubclass(shape, tuple) and hasattr(shape, "_fields"))
    )
