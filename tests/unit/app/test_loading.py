from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oncecast.app.loading import load_app
from oncecast.core.errors import ConfigError

APP = "from oncecast import App, Event, Transaction\napp = App('shop')\n"


@pytest.fixture(autouse=True)
def nothing_stays_imported() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_an_application_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "shop_a.py").write_text(APP)
    assert load_app("shop_a:app", tmp_path).name == "shop"


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        ("def broken(:\n    pass\n", "shop_b.py:3: SyntaxError: invalid syntax"),
        (
            "if True:\npass\n",
            "shop_b.py:4: IndentationError: expected an indented block after 'if' statement on line 3",
        ),
        ("\nprint(undefined)\n", "shop_b.py:4: NameError: name 'undefined' is not defined"),
        ("import no_such_module\n", "shop_b.py:3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import json\njson.loads('{')\n", "shop_b.py:4: JSONDecodeError: Expecting property name"),
        ("@app.on()\nasync def handle(event: Event): ...\n", "shop_b.py:3: a handler needs event types"),
    ],
)
def test_an_error_is_reported_with_its_line(tmp_path: Path, code: str, reported: str) -> None:
    """The innermost line of the application itself, not of a library."""
    (tmp_path / "shop_b.py").write_text(APP + code)
    with pytest.raises(ConfigError) as wrong:
        load_app("shop_b:app", tmp_path)
    assert str(wrong.value).startswith(reported), str(wrong.value)


def test_the_error_names_the_broken_module_of_the_application(tmp_path: Path) -> None:
    (tmp_path / "package_c").mkdir()
    (tmp_path / "package_c" / "__init__.py").write_text("from package_c import stock\n" + APP)
    (tmp_path / "package_c" / "stock.py").write_text("\n\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"^package_c/stock.py:3: ZeroDivisionError: division by zero$"):
        load_app("package_c:app", tmp_path)


@pytest.mark.parametrize("target", ["shop_d", "shop_d:", ":app"])
def test_an_invalid_target_is_refused_with_the_expected_form(tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigError, match="expected module:name, such as shop:app"):
        load_app(target, tmp_path)


def test_a_missing_module_or_name_is_reported(tmp_path: Path) -> None:
    (tmp_path / "shop_e.py").write_text(APP)
    with pytest.raises(ConfigError, match=r"there is no module 'shop_f' in .*; --app-dir names another folder"):
        load_app("shop_f:app", tmp_path)
    with pytest.raises(ConfigError, match=r"shop_e:shop: the module has no oncecast.App named 'shop'"):
        load_app("shop_e:shop", tmp_path)
