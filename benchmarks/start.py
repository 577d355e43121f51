"""From `mmq submit` to the first step, with a running service and a footprint that is known.

The service's part is read from the store, stage by stage, and held against the least that a command needs; the
trainer's is what comes after, against `import torch`: both in the same rounds, by medians. Half a second is eight
times that least on an idle machine (60 ms), and six are allowed: so a busy machine is no excuse and no obstacle.
Prints a table, then a line a bar. `make bench-start` runs it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Bar, Command, Cost, cost, environment, judged, machine, service
from scheduler.config import Settings
from scheduler.store.opening import open_database

ROUNDS = 9
FLOOR, TORCH = "import click, sqlite3", "import torch"
JOB_FILE = """kind: pretrain
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, vocab_size: 300}
data: {path: rows.jsonl, max_seq_len: 32}
train: {max_steps: 1, batch_size: 2, accumulation_steps: 1, dtype: float32}
"""


class Story(NamedTuple):
    """Epoch seconds of one job."""

    typed: float
    submitted: float
    admitted: float
    claimed: float
    started: float  # the trainer's process
    stepped: float  # its first step is done
    ended: float


STAGES = {
    "typed to submitted": ("typed", "submitted"),
    "submitted to admitted": ("submitted", "admitted"),
    "admitted to claimed": ("admitted", "claimed"),
    "claimed to trainer started": ("claimed", "started"),
    "submitted to claimed": ("submitted", "claimed"),
    "submitted to trainer started": ("submitted", "started"),
    "started to first step": ("started", "stepped"),
    "first step to job ended": ("stepped", "ended"),
}


def main() -> int:
    print(f"a tiny job, {ROUNDS} rounds; {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        stories, baselines = _measured(Path(folder))
    found = {name: [getattr(s, end) - getattr(s, begin) for s in stories] for name, (begin, end) in STAGES.items()}
    found |= {name: [c.wall_seconds for c in costs] for name, costs in baselines.items()}
    print(f"{'stage':<30}{'median ms':>11}{'fastest ms':>12}{'slowest ms':>12}")
    for name, seconds in found.items():
        of = (statistics.median(seconds), min(seconds), max(seconds))
        print("{:<30}{:>11.0f}{:>12.0f}{:>12.0f}".format(name, *(one * 1000 for one in of)))
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return judged(
        [
            Bar("submit_to_worker_ms", medians["submitted to claimed"] * 1000, 100.0),
            Bar("submit_to_start_over_floor", medians["submitted to trainer started"] / medians[FLOOR], 6.0),
            Bar("first_step_over_torch", medians["started to first step"] / medians[TORCH], 1.3),
        ]
    )


def _measured(folder: Path) -> tuple[list[Story], dict[str, list[Cost]]]:
    surroundings = environment(folder / "home")
    settings = Settings.from_environment(surroundings)
    (folder / "job.yaml").write_text(JOB_FILE)
    (folder / "rows.jsonl").write_text('{"text": "a few words to learn from, and a few more of them"}\n' * 20)
    submit = [sys.executable, "-m", "scheduler", "submit", str(folder / "job.yaml"), "--wait"]
    stories: list[Story] = []
    baselines: dict[str, list[Cost]] = {FLOOR: [], TORCH: []}
    with service(surroundings, "virtual:1x2GiB"):
        for turn in range(ROUNDS + 1):  # the first one is traced
            typed_at = time.time()
            done = subprocess.run(submit, env=surroundings, check=True, capture_output=True, text=True)
            if turn:
                stories.append(_story(settings, int(done.stdout), typed_at))
            for name, costs in baselines.items():
                costs.append(cost(Command([sys.executable, "-c", name]), surroundings))
    return stories, baselines


def _story(settings: Settings, job_id: int, typed_at: float) -> Story:
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    with closing(open_database(settings, lean=True)) as database:
        (row,) = database.query(
            "SELECT jobs.submitted_at, jobs.ended_at, attempts.admitted_at, attempts.claimed_at, attempts.pid_started"
            " FROM jobs JOIN attempts ON attempts.id = jobs.attempt_id WHERE jobs.id = :job_id",
            job_id=job_id,
        )
    return Story(
        typed=typed_at,
        submitted=row["submitted_at"],
        admitted=row["admitted_at"],
        claimed=row["claimed_at"],
        started=booted_at + row["pid_started"] / os.sysconf("SC_CLK_TCK"),
        stepped=_first_step(settings.run_dir(job_id) / "events.jsonl"),
        ended=row["ended_at"],
    )


def _first_step(events: Path) -> float:
    lines: Sequence[dict[str, object]] = [json.loads(line) for line in events.read_text().splitlines()]
    return next(float(str(event["at"])) for event in lines if event["event"] == "step")


if __name__ == "__main__":
    sys.exit(main())
