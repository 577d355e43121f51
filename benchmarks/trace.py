"""What a footprint costs: cold, as the first submit of a configuration waits for it; all of its table; and cached.

Against `import torch`, without which nothing can be traced. The bars are of a machine of one's own, so they are held
against the CPU time of the fastest round: a trace is one thread that never waits. But for the table of a job over two
devices it is the wait: two processes share it, where `mmq estimate` takes as many as cores, four at most. Prints a
table, then a line a bar. `make bench-trace` runs it.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.measure import Bar, Command, Cost, cost, environment, in_turns, judged, machine, told
from scheduler.admission.wish import wish_of
from scheduler.config import Settings
from scheduler.controller.footprints import Request, requests_for, stored
from scheduler.footprint.request import Target
from scheduler.jobs.jobfile import parse
from scheduler.jobs.spec import JobSpec
from scheduler.store import footprints
from scheduler.store.opening import open_database

ROUNDS = 5
LOOKS = 50
TORCH, COLD, TABLE, GANG = "import torch", "cold footprint", "whole table", "gang's table"
BLIND = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
JOB = "kind: pretrain\ndata: {path: rows.jsonl}\n"  # minimind-3: 8 layers of 768, 340 tokens
OVER_TWO = JOB + "resources: {gpus: 2}\n"
TARGET = Target(kind="cuda", capability="8.9")


def main() -> int:
    spec, _ = parse(JOB, file="job.yaml")
    first, *others = requests_for(spec, wish_of(spec), TARGET)
    over_two, _ = parse(OVER_TWO, file="job.yaml")
    gang = requests_for(over_two, wish_of(over_two), TARGET)
    print(f"minimind-3, {len(first.body['micro_batches'])} micro-batches, {ROUNDS} interleaved rounds; {machine()}\n")
    commands = {
        TORCH: Command([sys.executable, "-c", "import torch"]),
        COLD: _traced(first.body),
        TABLE: _traced(_whole((first, *others))),
        GANG: _traced(_whole(gang) | {"workers": 2}),  # as `mmq estimate` has it on two cores
    }
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        surroundings = environment(Path(folder), **BLIND)
        costs = in_turns(commands, surroundings, rounds=ROUNDS)
        cached_seconds = _cached(spec, Settings.from_environment(surroundings))
    told(costs, TORCH)
    print(f"{'cached footprint':<18}{cached_seconds * 1000:>11.2f}")
    return judged(
        [
            Bar("cold_trace_seconds", _cpu(costs[COLD]), 6.0),
            Bar("cold_trace_gb", max(c.peak_bytes for c in costs[COLD]) / 1e9, 1.0),
            Bar("whole_table_seconds", _cpu(costs[TABLE]), 15.0),
            Bar("gang_table_seconds", min(c.wall_seconds for c in costs[GANG]), 15.0),
            Bar("cached_milliseconds", cached_seconds * 1000, 5.0),
            Bar("cold_trace_over_torch", _cpu(costs[COLD]) / _cpu(costs[TORCH]), 2.5),
        ]
    )


def _whole(requests: Sequence[Request]) -> dict[str, Any]:
    """All stages as one question."""
    return requests[0].body | {"modes": [mode for one in requests for mode in one.body["modes"]]}


def _traced(body: dict[str, Any]) -> Command:
    return Command([sys.executable, "-P", "-m", "trainer.trace"], json.dumps(body).encode())


def _cpu(costs: list[Cost]) -> float:
    return min(c.cpu_seconds for c in costs)


def _cached(spec: JobSpec, settings: Settings) -> float:
    """Seconds from a job's specification to its footprint out of the store, with nothing remembered: the fastest."""
    request = requests_for(spec, wish_of(spec), TARGET)[0]
    cost(Command([sys.executable, "-m", "scheduler", "db", "upgrade"]), environment(settings.home))
    with closing(open_database(settings, lean=True)) as database:
        answer = _answer(request.body)
        footprints.put(database, request.key, answer, at=time.time())
        seconds = []
        for _ in range(LOOKS):
            requests_for.cache_clear()
            began = time.perf_counter()
            assert stored(database, requests_for(spec, wish_of(spec), TARGET)[0]) is not None
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def _answer(body: dict[str, Any]) -> str:
    """An answer as long as the tracer's."""
    parts = dict.fromkeys(("weights", "gradients", "optimizer", "activations", "logits", "workspace", "context"), 1)
    sizes = {"allocated_bytes": 1, "reserved_bytes": 1, "process_bytes": 1, "parts": parts}
    candidates = [mode | {"micro_batch": rows} | sizes for mode in body["modes"] for rows in body["micro_batches"]]
    return json.dumps({"torch": "2.13.0", "parameters": 1, "seconds": 1.0, "candidates": candidates})


if __name__ == "__main__":
    sys.exit(main())
