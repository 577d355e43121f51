"""One of several processes that run the trainer a number of times, one run after another: torch is imported once.

`python -m tests.training.several JOBS.json`, with the environment that torchrun would give. A job may be set back to an
earlier checkpoint before it begins. The first process finds a port for each run, and tells the others by a file.
"""

import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import torch

from trainer.__main__ import main


def run(jobs: Path) -> int:
    torch.set_num_threads(1)
    codes = []
    for number, job in enumerate(json.loads(jobs.read_text())):
        port = jobs.with_name(f"port-{number}")
        if os.environ["RANK"] == "0":
            if job["set_back"]:
                set_back(Path(job["run_dir"]))
            aside = port.with_suffix(".new")
            aside.write_text(str(free_port()))
            aside.replace(port)
        os.environ["MASTER_PORT"] = read(port)
        codes.append(main([job["config"], job["run_dir"]]))
    print(json.dumps(codes))
    return max(codes)


def set_back(run_dir: Path) -> None:
    """Take the result away, and the newest checkpoint."""
    shutil.rmtree(run_dir / "final")
    newest = max(run_dir.glob("checkpoints/step-*"), key=lambda path: int(path.name[5:]))
    shutil.rmtree(newest)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def read(file: Path) -> str:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return file.read_text()


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
