"""Host memory of a training run on a file of 2 GB, and how soon a second one begins.

The file is drawn from the demo's text, with rows of all lengths. The trainer runs as a person would start it, over that
file and over one of 2 MB, from which it must not differ: what that takes is torch's, the model's and its optimizer's
own. Memory is PSS of all its processes, anonymous and shared apart from files: pages of a mapped file are the kernel's
to drop. Prints a table, then a line a bar. `make bench-hostmem` runs it, with 5 GB of disk; `python -m
benchmarks.hostmem 0.1` takes a tenth of a GB.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import MIB, Bar, environment, judged, machine
from examples.demo import corpus

GB = 10**9
SMALL_BYTES = 2 * 10**6
STEPS = 5
LOOK_SECONDS = 0.2
SHORTEST, LONGEST = 40, 3000  # characters of a row
CONFIG: dict[str, Any] = {
    "kind": "pretrain",
    "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "train": {"max_steps": STEPS, "batch_size": 8, "accumulation_steps": 1, "log_interval": 1},
    "device": {"kind": "cpu"},
    "sample": {"max_new_tokens": 0},
}


class Memory(NamedTuple):
    """Of a process and all that it started, in bytes."""

    own: int  # anonymous or shared: no file's
    files: int  # mapped: programs, and the rows' tokens


class Started(NamedTuple):
    name: str
    first_step_seconds: float
    peak: Memory
    tokens: int


def main(size_gb: float = 2.0) -> int:
    print(f"{size_gb:g} GB of rows, minimind of 64, {STEPS} steps of 8 rows; {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < 2.5 * size_gb * GB:
            raise SystemExit(f"{folder} has less than {2.5 * size_gb:g} GB to spare: set TMPDIR to a larger disk")
        began = time.monotonic()
        write_rows(folder / "small.jsonl", SMALL_BYTES)
        write_rows(folder / "large.jsonl", int(size_gb * GB))
        print(f"rows written in {time.monotonic() - began:.0f} s\n")
        small = _run(folder, "small", "small.jsonl", tokenizer=None)
        tokenizer = folder / "small" / "tokenizer.json"
        first = _run(folder, "large", "large.jsonl", tokenizer=None)
        again = _run(folder, "large again", "large.jsonl", tokenizer=folder / "large" / "tokenizer.json")
        small_again = _run(folder, "small again", "small.jsonl", tokenizer=tokenizer)
    print(f"{'run':<14}{'tokens':>14}{'first step after':>18}{'peak, no files':>16}{'mapped files':>14}")
    for one in (small, first, again, small_again):
        seconds = f"{one.first_step_seconds:.1f} s"
        sizes = (f"{size / MIB:,.0f} MiB" for size in one.peak)
        print("{:<14}{:>14,}{:>18}{:>16}{:>14}".format(one.name, one.tokens, seconds, *sizes))
    return judged(
        [
            Bar(
                "host_memory_over_the_model_gb", (max(first.peak.own, again.peak.own) - small_again.peak.own) / GB, 1.0
            ),
            Bar("second_start_over_small", again.first_step_seconds / small_again.first_step_seconds, 1.5),
        ]
    )


def write_rows(path: Path, size_bytes: int) -> None:
    """Write rows of all lengths up to a size: stretches of the demo's text, each behind a number of its own."""
    draw = random.Random(7)
    source = path.with_name("source.jsonl")
    corpus.write_pretrain(source)
    text = "\n".join(json.loads(line)["text"] for line in source.read_text().splitlines())
    pieces = [json.dumps(piece)[1:] for piece in _stretches(text, draw)]
    written = number = 0
    with path.open("w") as file:
        while written < size_bytes:
            number += 1
            written += file.write(f'{{"text": "{number} {draw.choice(pieces)}}}\n')


def _stretches(text: str, draw: random.Random) -> Iterator[str]:
    for _ in range(4000):
        length = min(SHORTEST + int(draw.expovariate(1 / 1100)), LONGEST)
        begin = draw.randrange(len(text) - length)
        yield text[begin : begin + length]


def _run(folder: Path, name: str, rows: str, *, tokenizer: Path | None) -> Started:
    """Train, and watch the memory until the end."""
    data = {"path": rows, "max_seq_len": 340, "tokenizer": None if tokenizer is None else str(tokenizer)}
    config = folder / f"{name}.json"
    config.write_text(json.dumps(CONFIG | {"data": data | {"cache": str(folder / "cache")}}))
    command = [sys.executable, "-m", "trainer", str(config), str(folder / name)]
    began = time.time()
    with (folder / f"{name}.log").open("w") as log:
        trainer = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log)
        peak = Watch(trainer.pid)
        code = trainer.wait()
        peak.end()
    if code:
        raise SystemExit((folder / f"{name}.log").read_text())
    events = [json.loads(line) for line in (folder / name / "events.jsonl").read_text().splitlines()]
    first = next(event for event in events if event["event"] == "step")
    counted = next(event for event in events if event["event"] == "data")
    return Started(name, first["at"] - began, peak.highest, counted["tokens"])


class Watch:
    """Looks at the memory of a process and its children again and again; `highest` is the most of either kind."""

    def __init__(self, pid: int) -> None:
        self.highest = Memory(0, 0)
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            found = memory_of(self._pid)
            self.highest = Memory(max(self.highest.own, found.own), max(self.highest.files, found.files))


def memory_of(pid: int) -> Memory:
    """Add up a process and its descendants; what has ended meanwhile counts nothing."""
    process = Path(f"/proc/{pid}")
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()[1:]
        children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return Memory(0, 0)
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    below = [memory_of(int(child)) for child in children]
    files = sizes["Pss_File"]
    return Memory(sizes["Pss"] - files + sum(one.own for one in below), files + sum(one.files for one in below))


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
