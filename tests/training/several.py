"""Two processes that run the trainer a number of times, one run after another: torch is imported once.

`python -m tests.training.several JOBS.json`, with the environment that torchrun would give. A job may be set back to an
earlier checkpoint before it begins. The first process finds a port for each run, and tells the others by a file.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.training.conftest import PATIENCE_SECONDS, REPOSITORY
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
        with refusing(job["refused"]):
            codes.append(main([job["config"], job["run_dir"]]))
    print(json.dumps(codes))
    return max(codes)


@contextmanager
def refusing(places: dict[str, int]) -> Iterator[None]:
    """Refuse memory once in each optimizer step and each evaluation, further on each time: to a rank at every so many.

    Only where it could be helped. Each step begins with the run's first micro-batch again.
    """
    from trainer.evaluation import Evaluation
    from trainer.memory.allocation import DirectAllocator, OutOfMemory
    from trainer.steps.shrinking import REPEATABLE_TOGETHER, ShrinkingStep

    every, left, first = places.get(os.environ["RANK"], 0), [0], dict[type, int]()
    true_run, true_evaluation, true_malloc = ShrinkingStep.run, Evaluation.run, DirectAllocator.malloc
    running: list[Any] = []

    def run_step(self: Any, step: int, *arguments: Any) -> Any:
        self.micro_batch = first.setdefault(ShrinkingStep, self.micro_batch)
        running[:], left[0] = [self], step * every
        try:
            return true_run(self, step, *arguments)
        finally:
            left[0] = 0

    def evaluate(self: Any, model: Any, step: int, *arguments: Any) -> Any:
        self.resize(first.setdefault(Evaluation, self._batch))
        running[:], left[0] = [], step * every // 4
        try:
            return true_evaluation(self, model, step, *arguments)
        finally:
            left[0] = 0

    def malloc(self: Any, size_bytes: int) -> int:
        if not running or running[0]._phase in REPEATABLE_TOGETHER:
            left[0] -= 1
            if left[0] == 0:
                numbers = {"requested_bytes": size_bytes, "allocated_bytes": self.allocated_bytes}
                raise OutOfMemory(**numbers, reserved_bytes=self.reserved_bytes, limit_bytes=None)
        return true_malloc(self, size_bytes)

    if places:
        ShrinkingStep.run, Evaluation.run, DirectAllocator.malloc = run_step, evaluate, malloc  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShrinkingStep.run, Evaluation.run, DirectAllocator.malloc = true_run, true_evaluation, true_malloc  # type: ignore[method-assign]


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


class Pair:
    """Two processes, and the runs they are to make."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs: list[dict[str, Any]] = []

    def run(
        self, name: str, config: dict[str, Any], *, set_back: bool = False, refused: dict[str, int] | None = None
    ) -> None:
        """Have one more run made; `refused`: see `refusing`."""
        path, run_dir = self.root / f"{name}.json", self.root / name
        path.write_text(json.dumps(config))
        job = {"config": str(path), "run_dir": str(run_dir), "set_back": set_back, "refused": refused or {}}
        self.jobs.append(job)

    def wait(self) -> list[int]:
        """Make all the runs; give their exit codes."""
        path = self.root / "jobs.json"
        path.write_text(json.dumps(self.jobs))
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "GLOO_SOCKET_IFNAME": "lo",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
        }
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.several", str(path)],
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            said = [process.communicate(timeout=10 * PATIENCE_SECONDS)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        codes = [json.loads(text.splitlines()[-1]) for text in said]
        assert codes[0] == codes[1], said[1]
        return codes[0]


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
