"""A job's run directory: one class that owns every path of a run, and how its files come to be there.

Holds no opinion about what the files mean. Standard library only: the shim loads this.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.processes.durable import write_durably
from scheduler.processes.locks import SHIM_LOCK, TRAINER_LOCK
from scheduler.processes.regular import read_regular
from scheduler.processes.rotation import older
from worker.untrusted_json import parse_object

RECORD_BYTES = 1 << 20  # no record of an end is larger
LATEST = ("config.json", "log.txt", "exit.json")  # at the top: links to the latest attempt's own


@dataclass(frozen=True, kw_only=True)
class RunDir:
    """`root` belongs to the job, `attempt` to one try at it."""

    root: Path
    number: int

    @property
    def attempt(self) -> Path:
        return self.root / "attempts" / str(self.number)

    @property
    def source(self) -> Path:
        return self.root / "job.yaml"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def control(self) -> Path:
        """What asks the trainer for another micro-batch while it runs."""
        return self.root / "control.json"

    @property
    def result(self) -> Path:
        """The trainer's own word of how it ended."""
        return self.root / "result.json"

    @property
    def final(self) -> Path:
        return self.root / "final"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def trainer_lock(self) -> Path:
        """Held by the shim and, inherited, by the trainer: while either lives, no other attempt can start."""
        return self.root / TRAINER_LOCK

    @property
    def shim_lock(self) -> Path:
        """Held by the shim alone: whether anybody looks after the trainer."""
        return self.root / SHIM_LOCK

    @property
    def config(self) -> Path:
        return self.attempt / "config.json"

    @property
    def log(self) -> Path:
        return self.attempt / "log.txt"

    @property
    def exit(self) -> Path:
        return self.attempt / "exit.json"

    @property
    def kept(self) -> Path:
        """What was admitted, so that a store that lost it can be told again."""
        return self.attempt / "attempt.json"

    @property
    def shim_log(self) -> Path:
        return self.attempt / "shim.log"

    def create(self) -> None:
        """Make the directories, private."""
        for directory in (self.root, self.attempt):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def prepare(self, source: str, config: Mapping[str, Any], kept: str) -> None:
        """Write what this attempt starts from, and point the names at the top to it."""
        if not self.source.exists():
            write_durably(self.source, source)
        for path in (self.control, self.result):  # of an earlier attempt
            path.unlink(missing_ok=True)
        write_durably(self.kept, kept)
        write_durably(self.config, json.dumps(config, indent=2) + "\n")
        for path in (self.log, older(self.log)):  # whatever an earlier process may have put there
            path.unlink(missing_ok=True)
        self.log.touch(mode=0o600)
        for name in LATEST:
            _link(self.root / name, Path("attempts") / str(self.number) / name)

    def result_exists(self) -> bool:
        return (self.final / "model.safetensors").is_file() and (self.final / "config.json").is_file()

    def read_result(self) -> dict[str, Any] | None:
        """What the trainer left of its end, if it came to that."""
        return _read_object(self.result)


def _read_object(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError):
        return parse_object(read_regular(path, most_bytes=RECORD_BYTES))
    return None


def _link(name: Path, target: Path) -> None:
    temporary = name.with_name(f".{name.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(name)
