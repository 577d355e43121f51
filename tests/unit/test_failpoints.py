"""The places that are listed are those that are there, and an armed one fires once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler import failpoints
from tests.faults import test_failpoints as walk

ROOT = Path(__file__).parents[2]


def test_every_place_in_the_code_is_listed_and_there_once() -> None:
    named = [
        place
        for folder in ("scheduler", "worker")
        for path in (ROOT / folder).rglob("*.py")
        for place in re.findall(r"failpoint\(\"(.*?)\"\)", path.read_text())
    ]
    assert sorted(named) == sorted(failpoints.PLACES)


def test_every_place_is_armed_by_a_fault_test() -> None:
    marks = [mark for test in vars(walk).values() for mark in getattr(test, "pytestmark", ())]
    armed = [place for mark in marks if mark.args[0] == "where" for place in mark.args[1]]
    assert sorted(armed) == sorted(failpoints.PLACES)


def test_an_armed_place_fires_once_and_the_others_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_ARMED_IN", str(tmp_path))
    (tmp_path / "claim.updated").write_text("error")
    failpoints.failpoint("claim.committed")
    with pytest.raises(failpoints.Failed, match=r"claim\.updated"):
        failpoints.failpoint("claim.updated")
    failpoints.failpoint("claim.updated")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_ends_there(tmp_path: Path) -> None:
    (tmp_path / "claim.updated").write_text("kill")
    code = "from scheduler.failpoints import failpoint; print(1, flush=True); failpoint('claim.updated'); print(2)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"MMQ_FAILPOINTS": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (-9, "1\n")
