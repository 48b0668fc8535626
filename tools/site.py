"""A hook of MkDocs: put every decision into the navigation, in the order of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Add the decisions behind the pages that mkdocs.yml lists."""
    folder = Path(config.docs_dir) / "decisions"
    pages = [f"decisions/{page.name}" for page in sorted(folder.glob("[0-9]*.md"))]
    config.nav.append({"Decisions": ["decisions/index.md", *pages]})
    return config
