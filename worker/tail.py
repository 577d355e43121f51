"""Following `events.jsonl`: the trainer's word, read as it comes, one complete line at a time.

Owns the reading position. A line that is no JSON object, of another attempt, or absurdly long is passed over: the
trainer may have died in the middle of it. Standard library only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scheduler.processes.regular import open_regular
from worker.foreign import parse_object

LINE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 22

TrainerEvent = dict[str, Any]


class Tail:
    """The events of one attempt, in order, each once."""

    def __init__(self, path: Path, attempt: int, *, offset: int = 0) -> None:
        self._path = path
        self._attempt = attempt
        self._offset = offset

    @classmethod
    def from_end(cls, path: Path, attempt: int) -> "Tail":
        """Begin where the file ends now: what is there is an earlier attempt's."""
        try:
            return cls(path, attempt, offset=path.stat().st_size)
        except OSError:
            return cls(path, attempt)

    def read(self) -> list[TrainerEvent]:
        """The events that are new since the last call."""
        return list(self._events())

    def _events(self) -> Iterator[TrainerEvent]:
        while chunk := self._chunk():
            for line in chunk.splitlines():
                event = parse_object(line) if len(line) <= LINE_BYTES else None
                if event is not None and self._is_ours(event):
                    yield event

    def _is_ours(self, event: TrainerEvent) -> bool:
        return isinstance(event.get("event"), str) and event.get("attempt") == self._attempt

    def _chunk(self) -> bytes:
        """Some whole lines from here on, and step over them; nothing while the last one is still being written."""
        try:
            with open_regular(self._path) as file:
                file.seek(self._offset)
                found = file.read(CHUNK_BYTES)
        except OSError:  # not there yet, or something else is
            return b""
        whole = found[: found.rfind(b"\n") + 1]
        if not whole and len(found) > LINE_BYTES:
            whole = found  # no line of ours: step over it
        self._offset += len(whole)
        return whole
