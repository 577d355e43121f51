"""One of several processes that run the trainer a number of times, one run after another: torch is imported once.

`python -m tests.training.several JOBS.json`, with the environment that torchrun would give. A job may be set back to an
earlier checkpoint before it begins.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import torch

from trainer.__main__ import main


def run(jobs: Path) -> int:
    torch.set_num_threads(1)
    codes = []
    for job in json.loads(jobs.read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        run_dir = Path(job["run_dir"])
        if job["set_back"]:
            wait_for_set_back(run_dir) if os.environ["RANK"] != "0" else set_back(run_dir)
        codes.append(main([job["config"], str(run_dir)]))
    print(json.dumps(codes))
    return max(codes)


def set_back(run_dir: Path) -> None:
    """Take the result away, and the newest checkpoint."""
    shutil.rmtree(run_dir / "final")
    newest = max(run_dir.glob("checkpoints/step-*"), key=lambda path: int(path.name[5:]))
    shutil.rmtree(newest)


def wait_for_set_back(run_dir: Path) -> None:
    deadline = time.monotonic() + 60
    while (run_dir / "final").exists():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
