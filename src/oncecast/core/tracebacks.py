"""Tracebacks of the application's code, without frames of Oncecast and of libraries around it."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

LINES_MAX = 60
_ONCECAST = str(Path(__file__).parents[1]) + "/"
_STANDARD = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib")})
_INSTALLED = ("/site-packages/", "/dist-packages/")
_HEADERS = ("Traceback (most recent call last):", "Exception Group Traceback (most recent call last):")


def users_traceback(error: BaseException) -> str:
    """Return the traceback of a handler's error, with causes and groups; empty without a frame of the application.

    It has no header line: in a log, a header shows that Oncecast itself failed.
    """
    if not _has_users_frame(error, set()):
        return ""
    shown = traceback.TracebackException.from_exception(error)
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup) and cause.subgroup(lambda part: part is error):
        shown.__cause__, shown.__suppress_context__ = None, True  # a group around the error itself adds nothing
    _cut(shown, set())
    lines = [line for chunk in shown.format() for line in chunk.rstrip("\n").split("\n")]
    return "\n".join(_shortened([line for line in lines if line.strip(" +|-") not in _HEADERS]))


def trace_of(error: BaseException) -> str:
    """Return the traceback of the application's code, or Python's whole traceback if the error has no such frame."""
    return users_traceback(error) or "".join(traceback.format_exception(error))


def is_library(file: str) -> bool:
    """Whether a file belongs to Python, to Oncecast or to another installed package."""
    return file.startswith((_ONCECAST, "<frozen ", *_STANDARD)) or any(part in file for part in _INSTALLED)


def _has_users_frame(error: BaseException | None, seen: set[int]) -> bool:
    if error is None or id(error) in seen:
        return False
    seen.add(id(error))
    if any(_may_be_users(file) for file in _files(error.__traceback__)):
        return True
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return any(_has_users_frame(other, seen) for other in (error.__cause__, error.__context__, *parts))


def _files(trace: TracebackType | None) -> Iterable[str]:
    return (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))


def _may_be_users(file: str) -> bool:
    """Whether a traceback may start in this file; an application may itself be an installed package."""
    is_installed = any(part in file for part in _INSTALLED)
    return not file.startswith((_ONCECAST, "<frozen ")) and (is_installed or not file.startswith(_STANDARD))


def _cut(shown: traceback.TracebackException, seen: set[int]) -> None:
    if id(shown) in seen:
        return
    seen.add(id(shown))
    shown.stack[:] = _users(list(shown.stack))
    for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if other is not None:
            _cut(other, seen)


def _users(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the frames from the application's first to its last, without Oncecast's."""
    begin = next((n for n, frame in enumerate(frames) if _may_be_users(frame.filename)), len(frames))
    frames = [frame for frame in frames[begin:] if not frame.filename.startswith(_ONCECAST)]
    while frames and is_library(frames[-1].filename) and not _is_of(frames[0].filename, frames[-1].filename):
        frames.pop()
    return frames


def _is_of(first: str, file: str) -> bool:
    """Whether `file` belongs to the same installed package as `first`."""
    for part in _INSTALLED:
        root, found, rest = first.partition(part)
        if found:
            return file.startswith(root + found + rest.partition("/")[0])
    return False


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= LINES_MAX:
        return lines
    half = LINES_MAX // 2
    return [*lines[:half], f"… {len(lines) - LINES_MAX} lines left out …", *lines[-half:]]
