"""Reads the pages of the documentation, so that tests can hold them against the code."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
_CELL = re.compile(r"(?<!\\)\|")


class Page:
    """A page of Markdown, cut at its headings; a heading's text is its key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        parts = re.split(r"^#+ (.+)$", self.text, flags=re.MULTILINE)
        self.sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    def table(self, heading: str) -> list[list[str]]:
        """The rows of the first table under a heading, without its head."""
        lines = self.sections[heading].splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("|"))
        rows = []
        for line in lines[start:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip().replace("\\|", "|") for cell in _CELL.split(line)[1:-1]])
        return rows[2:]

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)


def page(name: str) -> Page:
    return Page(DOCS / name)


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def every_page() -> list[Path]:
    return sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])
