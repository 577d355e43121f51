"""A disk that fills up, and kills at each single change of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.workplace import REPOSITORY
from tests.faults.world import World


@pytest.mark.parametrize("how", ["kill", "full"])
@pytest.mark.parametrize(("subject", "least"), [("store", 20), ("checkpoint", 15), ("record", 3)])
def test_nothing_told_is_lost_at_any_change_of_the_disk(tmp_path: Path, subject: str, least: int, how: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    world = World.make(tmp_path, disk)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.walked", str(world.shared), str(disk), subject, how],
        cwd=REPOSITORY,
        env=os.environ | world.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["changes"] >= least, found
