"""Load an application such as `shop:app`; errors name the file and line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from oncecast.app.application import App
from oncecast.app.demo import demonstration
from oncecast.core.errors import ConfigError, OncecastError


def load_app(target: str | None, app_dir: Path) -> App:
    """Return the application `module:name`, also from `app_dir`; without a target, the built-in one.

    Raises ConfigError if it cannot be loaded, whatever the reason.
    """
    if target is None:
        return demonstration()
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"invalid application {target!r}: expected module:name, such as shop:app")
    sys.path.insert(0, str(app_dir))
    app = getattr(_import(module_name, app_dir), name, None)
    if not isinstance(app, App):
        raise ConfigError(f"{target}: the module has no oncecast.App named {name!r}")
    return app


def _import(module_name: str, app_dir: Path) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        # Any error of the user's code: loading it again would fail in the same way.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module_name + ".").startswith(missing + "."):
            where = f"in {app_dir}; --app-dir names another folder"
            raise ConfigError(f"there is no module {module_name!r} {where}") from None
        raise ConfigError(_with_place(error, app_dir)) from error


def _with_place(error: Exception | SystemExit, app_dir: Path) -> str:
    """Return the error with its place: the innermost line of the application itself, rather than of a library."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename, app_dir)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [place for place in places if _is_own(place[0], app_dir)]
    file, line = (own or places)[-1]
    what = str(error) if isinstance(error, OncecastError) else f"{type(error).__name__}: {error}"
    return f"{_shown(file, app_dir)}:{line}: {what}"


def _is_own(file: str, app_dir: Path) -> bool:
    path = Path(file)
    return path.is_relative_to(app_dir) and "site-packages" not in path.parts


def _shown(file: str, app_dir: Path) -> str:
    return os.path.relpath(file, app_dir) if _is_own(file, app_dir) else file
