"""Report words that Oncecast's texts avoid, each with its place and a better word; exit status 1 if there are any.

    python tools/check_words.py [FILE…]

The words are in tools/words.toml. Without arguments it reads every text file that git tracks, except the list
itself, and decisions, which may name what was retired.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools/words.toml"
SUFFIXES = {".py", ".md", ".sql", ".lua", ".js", ".html", ".css", ".toml", ".yml", ".yaml", ""}
SKIPPED = ("docs/decisions/", "tools/words.toml", "LICENSE", "src/oncecast/web/vendor/")


def tracked_files() -> Iterator[Path]:
    """Yield the text files that git tracks, without those that are skipped."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        path = ROOT / name
        if path.suffix in SUFFIXES and not name.startswith(SKIPPED) and path.is_file():
            yield path


def better_words() -> list[tuple[re.Pattern[str], str]]:
    """Return each pattern with its better words: words in any case, names exactly as they are written."""
    lists = tomllib.loads(LIST.read_text("utf-8"))
    return [
        (re.compile("(?<![\\w-])" + pattern.replace(" ", r"\s+") + "(?![\\w-])", flags), better)
        for section, flags in (("words", re.IGNORECASE), ("names", 0))
        for pattern, better in lists[section].items()
    ]


def findings(paths: Iterable[Path]) -> Iterator[str]:
    """Yield `file:line: 'word': better words` for each word that is found, also across a line break."""
    words = better_words()
    for path in paths:
        text = path.read_text("utf-8", errors="replace")
        joined = re.sub(r"\s*\n\s*(?:#|--|//)?\s*", lambda gap: " " * len(gap[0]), text)  # as long as before
        for pattern, better in words:
            for match in pattern.finditer(joined):
                line = text.count("\n", 0, match.start()) + 1
                yield f"{path.relative_to(ROOT)}:{line}: {' '.join(match[0].split())!r}: better: {better}"


def main() -> int:
    """Print every finding; 1 if there are any."""
    found = sorted(findings([Path(name).resolve() for name in sys.argv[1:]] or tracked_files()))
    print("\n".join(found) if found else "check_words: no word of tools/words.toml was found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
