"""The time in which a queue of real trainers is done: packed as mmq packs, against one job a device.

A real service on two virtual devices; twelve jobs of four kinds and three lengths, pretraining and fine-tuning. Each
computes a third of its time: `data.row_wait_seconds` is twice the CPU time that a row of its kind was measured to take
here, so the loader's wait is what a slow disk would be. On a machine with other work computing takes longer, and the
share that the trainers tell (`busy`) is higher. The baseline is the same twelve with `resources.exclusive`, afterwards
in the same service. Prints a table, then a line a bar. `make bench-makespan` runs it, some six minutes long.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Bar, Command, Cost, cost, environment, judged, machine, service
from scheduler.config import Settings
from scheduler.store.database import Row
from scheduler.store.opening import open_database

DEVICES = "virtual:2x512MiB"
COMPUTES = 1 / 3  # of the time that a job takes alone
ALONE_SECONDS = (24, 32, 40)
PROBED_STEPS = 30
PATIENCE_SECONDS = 900.0
_MODEL = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}


class Kind(NamedTuple):
    name: str
    kind: str  # of training
    hidden_size: int
    layers: int
    max_seq_len: int
    batch_size: int


KINDS = (
    Kind("narrow", "pretrain", 64, 2, 128, 16),
    Kind("wide", "pretrain", 192, 2, 64, 12),
    Kind("deep", "pretrain", 64, 8, 64, 12),
    Kind("chat", "sft", 96, 2, 256, 6),
)


class Ran(NamedTuple):
    """One job of a queue, by its attempt."""

    name: str
    device: str
    began: float
    ended: float
    busy_share: float


class Queue(NamedTuple):
    makespan_seconds: float
    jobs: list[Ran]


def main() -> int:
    print(f"twelve jobs on {DEVICES}; {machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        packed, alone = _measured(Path(folder))
    print(f"{'':<12}{'packed: s':>14}{'to':>7}  {'on':<11}{'alone: s':>12}{'to':>7}  {'on':<11}{'busy':>5}")
    for ours, theirs in zip(packed.jobs, alone.jobs, strict=True):
        print(
            f"{ours.name:<12}{ours.began:>14.0f}{ours.ended:>7.0f}  {ours.device:<11}"
            f"{theirs.began:>12.0f}{theirs.ended:>7.0f}  {theirs.device:<11}{theirs.busy_share:>5.2f}"
        )
    print(f"\nmakespan {packed.makespan_seconds:.0f} s, one job a device {alone.makespan_seconds:.0f} s; {machine()}")
    return judged([Bar("makespan_over_one_job_a_device", packed.makespan_seconds / alone.makespan_seconds, 0.7)])


def _measured(folder: Path) -> tuple[Queue, Queue]:
    surroundings = environment(folder / "home")
    settings = Settings.from_environment(surroundings)
    _write_rows(folder)
    files = [file for kind in KINDS for file in _job_files(folder, kind, _step_seconds(folder, kind, surroundings))]
    with service(surroundings, DEVICES):
        return (
            _queue(settings, files, surroundings),
            _queue(settings, files, surroundings, "-o", "resources.exclusive=true"),
        )


def _write_rows(folder: Path) -> None:
    words = "a trainer reads a row of words and learns which word comes next in each of its many rows ".split()
    texts = [
        " ".join(words[(start + step * (1 + start % 5)) % len(words)] for step in range(400)) for start in range(64)
    ]
    spoken = [[{"role": "user", "content": "Go on."}, {"role": "assistant", "content": text}] for text in texts]
    (folder / "pretrain.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "sft.jsonl").write_text("".join(json.dumps({"conversations": one}) + "\n" for one in spoken))


def _training(folder: Path, kind: Kind) -> dict[str, Any]:
    """What the job file and the trainer's own configuration have in common."""
    return {
        "kind": kind.kind,
        "model": _MODEL | {"hidden_size": kind.hidden_size, "num_hidden_layers": kind.layers},
        "data": {"path": str(folder / f"{kind.kind}.jsonl"), "max_seq_len": kind.max_seq_len},
        "train": {"batch_size": kind.batch_size, "accumulation_steps": 1, "dtype": "float32"},
    }


def _step_seconds(folder: Path, kind: Kind, surroundings: Mapping[str, str]) -> float:
    """CPU seconds of a step of this kind: of a trainer's run of some steps, less those of a run of one."""
    one, some = (_probe(folder, kind, steps, surroundings).cpu_seconds for steps in (1, 1 + PROBED_STEPS))
    return max(1e-3, (some - one) / PROBED_STEPS)


def _probe(folder: Path, kind: Kind, steps: int, surroundings: Mapping[str, str]) -> Cost:
    run_dir, path = folder / f"probe-{kind.name}-{steps}", folder / "probe.json"
    run_dir.mkdir()
    config = _training(folder, kind)
    config["data"]["cache"] = str(folder / "cache")
    config["train"]["max_steps"] = steps
    config["device"] = {"kind": "virtual", "ledger": str(run_dir / "ledger"), "total_bytes": 1 << 29}
    path.write_text(json.dumps(config))
    command = Command([sys.executable, "-m", "trainer", str(path), str(run_dir)])
    return cost(command, {**surroundings, "OMP_NUM_THREADS": "1"})


def _job_files(folder: Path, kind: Kind, step_seconds: float) -> Sequence[Path]:
    wait_seconds = step_seconds * (1 / COMPUTES - 1)
    print(f"{kind.name}: a step computes {step_seconds * 1e3:.0f} ms and waits {wait_seconds * 1e3:.0f} ms", flush=True)
    files = []
    for seconds in ALONE_SECONDS:
        job = _training(folder, kind)
        job["data"]["row_wait_seconds"] = wait_seconds / kind.batch_size
        job["train"]["max_steps"] = max(2, round(seconds * COMPUTES / step_seconds))
        files.append(folder / f"{kind.name}-{seconds}.yaml")
        files[-1].write_text(json.dumps(job))  # JSON is YAML
    return files


def _queue(settings: Settings, files: Sequence[Path], surroundings: Mapping[str, str], *options: str) -> Queue:
    """Submit them all at once, and wait for the last to end."""
    mmq = [sys.executable, "-m", "scheduler"]
    began_at = time.time()
    submitted = [
        subprocess.run([*mmq, "submit", file, *options], env=surroundings, check=True, capture_output=True, text=True)
        for file in files
    ]
    jobs = [int(done.stdout) for done in submitted]
    with closing(open_database(settings, lean=True)) as database:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while database.query("SELECT 1 AS one FROM jobs WHERE ended_at IS NULL LIMIT 1"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the queue was not done within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.5)
        rows = {row["id"]: row for row in database.query(_ENDED)}
    ran = [_ran(rows[job], began_at) for job in jobs]
    return Queue(max(one.ended for one in ran), ran)


_ENDED = (
    "SELECT jobs.id, jobs.name, jobs.state, jobs.message, jobs.ended_at, attempts.device, attempts.admitted_at,"
    " attempts.busy_share FROM jobs JOIN attempts ON attempts.id = jobs.attempt_id"
)


def _ran(row: Row, began_at: float) -> Ran:
    if row["state"] != "succeeded":
        raise RuntimeError(f"{row['name']} {row['state']}: {row['message']}")
    times = row["admitted_at"] - began_at, row["ended_at"] - began_at
    return Ran(row["name"], row["device"], *times, row["busy_share"] or 0.0)


if __name__ == "__main__":
    sys.exit(main())
