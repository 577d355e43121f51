"""Every promise and every fault names the tests that show it, and each of those is there."""

import re
from pathlib import Path

from tests.unit.pages import REPOSITORY, Page, page, spans

TESTS = REPOSITORY / "tests"
PROMISES = Page(REPOSITORY / "README.md").table("Promises")
FAULTS = page("reliability.md").table("Faults")


def defined_in(path: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", path.read_text(), flags=re.MULTILINE))


def missing(named: list[str], root: Path) -> list[str]:
    """Those of the named tests that are not there."""
    names = []
    for name in named:
        file, _, test = name.partition("::")
        if not (root / file).is_file() or test not in defined_in(root / file):
            names.append(name)
    return names


def test_every_fault_names_tests_that_are_there() -> None:
    for fault, outcome, tests in FAULTS:
        assert outcome
        assert spans(tests), fault
        assert missing(spans(tests), TESTS) == [], fault


def test_every_promise_names_tests_that_are_there() -> None:
    assert len(PROMISES) == 7
    for promise, tests in PROMISES:
        named = [name.removeprefix("tests/") for name in spans(tests)]
        assert named, promise
        assert missing(named, TESTS) == [], promise


def test_every_fault_test_is_in_the_table() -> None:
    named = {name for _, _, tests in FAULTS for name in spans(tests)}
    files = (TESTS / "faults").glob("test_*.py")
    there = {f"faults/{path.name}::{test}" for path in files for test in defined_in(path)}
    assert there <= named, there - named
