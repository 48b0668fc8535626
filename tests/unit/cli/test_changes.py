from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from oncecast.cli.changes import Changes, changes_in
from oncecast.core.errors import StartError


async def changed(changes: Changes) -> list[str]:
    async with asyncio.timeout(120):
        return await changes.next()


async def test_a_file_that_is_written_made_replaced_or_removed_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("1")
    async with changes_in(tmp_path) as changes:
        (tmp_path / "shop.py").write_text("2")
        assert await changed(changes) == ["shop.py"]
        (tmp_path / "new.py").write_text("1")
        assert await changed(changes) == ["new.py"]
        (tmp_path / "shop.py~").write_text("3")
        os.replace(tmp_path / "shop.py~", tmp_path / "shop.py")  # as careful editors do
        assert await changed(changes) == ["shop.py"]
        (tmp_path / "new.py").unlink()
        assert await changed(changes) == ["new.py"]


async def test_a_folder_that_comes_later_is_watched_too(tmp_path: Path) -> None:
    async with changes_in(tmp_path) as changes:
        (tmp_path / "package" / "inner").mkdir(parents=True)
        (tmp_path / "package" / "inner" / "a.py").write_text("1")
        assert await changed(changes) == ["package/inner/a.py"]
        (tmp_path / "package" / "inner" / "a.py").write_text("2")
        assert await changed(changes) == ["package/inner/a.py"]


async def test_a_folder_that_is_replaced_by_another_of_its_name_is_watched_further(tmp_path: Path) -> None:
    for name in ("package", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(name)
    async with changes_in(tmp_path) as changes:
        (tmp_path / "package").rename(tmp_path / "former")
        (tmp_path / "other").rename(tmp_path / "package")
        while "package/a.py" not in await changed(changes):
            pass
        await asyncio.sleep(0)
        (tmp_path / "package" / "a.py").write_text("again")
        while "package/a.py" not in await changed(changes):
            pass


async def test_what_is_no_code_of_the_application_is_no_change(tmp_path: Path) -> None:
    for folder in (".oncecast/listener-a", "environment/lib", "mydata/postgres", "node_modules", "__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "environment" / "pyvenv.cfg").touch()
    async with changes_in(tmp_path, without=tmp_path / "mydata") as changes:
        for file in (
            ".oncecast/listener-a/x.py", "environment/lib/x.py", "mydata/postgres/x.py", "node_modules/x.py",
            "__pycache__/x.py", "notes.txt", ".#shop.py",
        ):  # fmt: skip
            (tmp_path / file).write_text("1")
        (tmp_path / "shop.py").write_text("1")
        assert await changed(changes) == ["shop.py"]


async def test_what_python_had_compiled_of_a_changed_file_is_forgotten(tmp_path: Path) -> None:
    """Otherwise an import would miss a change of the same length within the same second."""
    (tmp_path / "shop.py").write_text("1")
    compiled = Path(cache_from_source(str(tmp_path / "shop.py")))
    compiled.parent.mkdir()
    compiled.write_bytes(b"of the former")
    async with changes_in(tmp_path) as changes:
        (tmp_path / "shop.py").write_text("2")
        await changed(changes)
    assert not compiled.exists()


async def test_without_watchfiles_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(StartError, match=r"--reload needs watchfiles: pip install 'oncecast\[reload\]'"):
        async with changes_in(tmp_path):
            pass
