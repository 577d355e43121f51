"""`trainer/README.md`: its example runs with the trainer's folder alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.unit.pages import REPOSITORY, Page

PAGE = Page(REPOSITORY / "trainer/README.md")


def test_the_example_runs_with_nothing_of_mmq_s_but_this_folder(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "trainer", tmp_path / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    script = PAGE.blocks("sh")[0].replace("python ", f"{sys.executable} ")
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    *_, generated, evaluated = done.stdout.strip().splitlines()
    assert generated
    last = json.loads((tmp_path / "run/events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished"
    assert json.loads(evaluated)["loss"] < last["first_loss"] / 2  # it has learned its rows


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.text):
        assert (PAGE.path.parent / target).exists(), target
