"""From `mmq submit` to the first step, with a running service and a footprint that is known.

The service's part is read from the store, stage by stage; the trainer's is what comes after, against `import torch`
in the same rounds. Prints tables, then a line a bar. `make bench-start` runs it.
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
from scheduler.store.database import open_database

ROUNDS = 9
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
    "submitted to trainer started": ("submitted", "started"),
    "started to first step": ("started", "stepped"),
    "first step to job ended": ("stepped", "ended"),
}


def main() -> int:
    print(f"a tiny job, {ROUNDS} rounds; {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        stories, torch = _measured(Path(folder))
    found = {name: [getattr(s, end) - getattr(s, begin) for s in stories] for name, (begin, end) in STAGES.items()}
    found["import torch (a process)"] = [c.wall_seconds for c in torch]
    print(f"{'stage':<30}{'median ms':>11}{'fastest ms':>12}{'slowest ms':>12}")
    for name, seconds in found.items():
        print(
            f"{name:<30}"
            + "".join(f"{f(seconds) * 1000:>{w}.0f}" for f, w in ((statistics.median, 11), (min, 12), (max, 12)))
        )
    first_step = statistics.median(found["started to first step"]) / statistics.median(
        found["import torch (a process)"]
    )
    return judged(
        [
            Bar("submit_to_start_seconds", statistics.median(found["submitted to trainer started"]), 0.5),
            Bar("first_step_over_torch", first_step, 1.5),
        ]
    )


def _measured(folder: Path) -> tuple[list[Story], list[Cost]]:
    surroundings = environment(folder / "home")
    settings = Settings.from_environment(surroundings)
    (folder / "job.yaml").write_text(JOB_FILE)
    (folder / "rows.jsonl").write_text('{"text": "a few words to learn from, and a few more of them"}\n' * 20)
    submit = [sys.executable, "-m", "scheduler", "submit", str(folder / "job.yaml"), "--wait"]
    stories, torch = [], []
    with service(surroundings, "virtual:1x2GiB"):
        for turn in range(ROUNDS + 1):  # the first one is traced
            typed_at = time.time()
            done = subprocess.run(submit, env=surroundings, check=True, capture_output=True, text=True)
            imported = cost(Command([sys.executable, "-c", "import torch"]), surroundings)
            if turn:
                stories.append(_story(settings, int(done.stdout), typed_at))
                torch.append(imported)
    return stories, torch


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
