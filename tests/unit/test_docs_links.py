"""Every link between pages leads somewhere, also to the heading; every page is in the index."""

import re
from pathlib import Path

import pytest

from tests.unit.pages import DOCS, REPOSITORY, Page, every_page

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = Page(path).sections
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", every_page(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(path: Path) -> None:
    links = LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8")))
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    linked = {(DOCS / link).resolve() for link in LINK.findall((DOCS / "README.md").read_text(encoding="utf-8"))}
    assert linked >= {*DOCS.glob("*.md")} - {DOCS / "README.md"}


def test_every_page_that_the_code_names_is_there() -> None:
    sources = [path for part in ("scheduler", "worker", "trainer") for path in (REPOSITORY / part).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))}
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
