from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

WEB = Path(str(resources.files("oncecast").joinpath("web")))
MODULES = sorted(WEB.glob("*.js"))


class Page(HTMLParser):
    def __init__(self, name: str = "index.html") -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed((WEB / name).read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


def test_nothing_in_the_page_is_inline() -> None:
    """The strict policy forbids inline scripts, styles and handlers: the page has none."""
    for tag, attributes in Page().tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_the_page_loads_only_its_own_files() -> None:
    """Scripts, styles and icons are files of the page, named relative to it."""
    for tag, attributes in Page().tags:
        for name in ("src", "href"):
            target = attributes.get(name)
            if target and tag != "a":
                assert target.startswith("web/")
                assert (WEB / target.removeprefix("web/")).is_file()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_modules_import_existing_files_and_write_only_text(module: Path) -> None:
    """A module imports files of its folder, uses ids of the page, and never writes markup."""
    code = module.read_text("utf-8")
    for imported in re.findall(r'from "([^"]+)"', code):
        assert (WEB / imported).is_file()
    page = Page("docs.html" if module.name == "docs.js" else "index.html")
    assert set(re.findall(r'byId\("([\w-]+)"\)', code)) <= set(page.ids)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\.style\b", code)


def test_ids_are_unique_and_labels_point_to_fields() -> None:
    """Every id is unique, and every label and description points to one."""
    page = Page()
    assert len(page.ids) == len(set(page.ids))
    for _, attributes in page.tags:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            if target := attributes.get(name):
                assert target in page.ids
