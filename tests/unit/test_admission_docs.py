"""The documentation names every code that a program may meet."""

from pathlib import Path

from scheduler.jobs.states import WaitCode

DOCS = Path(__file__).parents[2] / "docs" / "admission.md"


def test_every_code_is_documented() -> None:
    text = DOCS.read_text()
    assert [code for code in WaitCode if f"`{code}`" not in text] == []
