"""`events.jsonl`: what happened in a run, one JSON line each, appended in one write. Must not interpret them.

Bounded: where the file grows over its limit it is replaced by one of half that size with fewer points, which ends with
an event that says so.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from trainer.config import EVENTS_BYTES
from trainer.errors import BadConfiguration, DiskFull
from trainer.files.storage import is_file, write_file
from trainer.reporting.thinning import thinned


class EventLog:
    """Lines of earlier attempts stay; one cut short by a kill is ended first, so that ours stand alone.

    Without a path nothing is written: for a process that has no run of its own.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.attempt = 1  # this and the next: until CONFIG is read
        self.limit_bytes = EVENTS_BYTES
        self._path = path
        self._clock = clock
        if path is not None and os.path.lexists(path) and not is_file(path):
            raise BadConfiguration(
                f"{path} is not a regular file, so events can't be appended to it\nhint: use another run directory"
            )
        if path is not None and _cut_short(path):
            self._append(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """Append an event; a number that is not finite becomes null, as JSON has none."""
        self._append(self._line(event, fields))

    def _line(self, event: str, fields: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"at": self._clock(), "attempt": self.attempt, "event": event} | fields) + b"\n"

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        with self._path.open("ab", buffering=0) as file:
            file.write(line)
            size_bytes = file.tell()
        if size_bytes > self.limit_bytes:
            self._thin(self._path, size_bytes)

    def _thin(self, path: Path, size_bytes: int) -> None:
        """Put a shorter file in its place."""
        with contextlib.suppress(OSError, DiskFull):
            lines = path.read_bytes().splitlines(keepends=True)
            recent = _last(lines, self.limit_bytes // 8)  # whole, so that who follows finds its place again
            kept = [*thinned(lines[: len(lines) - len(recent)], self.limit_bytes * 3 // 8), *recent]
            marker = self._line("thinned", {"lines_before": len(lines), "lines": len(kept)})
            write_file(path, b"".join([*kept, marker]))
            size_bytes = path.stat().st_size
        if size_bytes > self.limit_bytes * 3 // 4:  # it did not help: not at each event again
            self.limit_bytes = 2 * size_bytes


def _last(lines: list[bytes], most_bytes: int) -> list[bytes]:
    start, size_bytes = len(lines), 0
    while start and size_bytes + len(lines[start - 1]) <= most_bytes:
        start -= 1
        size_bytes += len(lines[start])
    return lines[start:]


def _cut_short(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
