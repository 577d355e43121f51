"""`events.jsonl`: what happened in a run, one JSON line each, appended in one write. Must not interpret them."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec


class EventLog:
    """Lines of an earlier attempt stay; one cut short by a kill is ended first, so that ours stand alone."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = path.open("ab+", buffering=0)
        self.attempt = 1  # until CONFIG is read
        self._clock = clock
        if self._file.tell() and os.pread(self._file.fileno(), 1, self._file.tell() - 1) != b"\n":
            self._file.write(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """Append an event; a number that is not finite becomes null, as JSON has none."""
        line = {"at": self._clock(), "attempt": self.attempt, "event": event} | fields
        self._file.write(msgspec.json.encode(line) + b"\n")
