"""`events.jsonl`: what happened in a run, one JSON line each, appended in one write. Must not interpret them."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from trainer.errors import BadConfiguration
from trainer.files.storage import is_file


class EventLog:
    """Lines of earlier attempts stay; one cut short by a kill is ended first, so that ours stand alone.

    Without a path nothing is written: for a process that has no run of its own.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.attempt = 1  # until CONFIG is read
        self._path = path
        self._clock = clock
        if path is not None and os.path.lexists(path) and not is_file(path):
            raise BadConfiguration(f"{path} is no file: events are appended to it\nhint: use another run directory")
        if path is not None and _cut_short(path):
            self._append(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """Append an event; a number that is not finite becomes null, as JSON has none."""
        line = {"at": self._clock(), "attempt": self.attempt, "event": event} | fields
        self._append(msgspec.json.encode(line) + b"\n")

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        with self._path.open("ab", buffering=0) as file:
            file.write(line)


def _cut_short(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
