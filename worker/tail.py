"""Following `events.jsonl`: the trainer's events, read as they come, one complete line at a time.

Owns the reading position, also where the trainer puts a shorter file in the place of one that had grown too long. A
line that is not a JSON object, of another attempt, or absurdly long is passed over: the trainer may have died in the
middle of it. Standard library only.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from scheduler.processes.regular import open_regular
from worker.untrusted_json import parse_object

LINE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 22
THINNED = b'"event":"thinned"'  # in the last line that a shorter file has when it is put there

TrainerEvent = dict[str, Any]


class Tail:
    """The events of one attempt, in order, each once."""

    def __init__(self, path: Path, attempt: int, *, offset: int = 0) -> None:
        self._path = path
        self._attempt = attempt
        self._offset = offset
        self._file_number: int | None = None  # of the file that the offset is in
        self._last = b""  # the line before the offset, by which it is found again

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
                self._find_place(file)
                file.seek(self._offset)
                content = file.read(CHUNK_BYTES)
        except OSError:  # not there yet, or something else is
            return b""
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and len(content) > LINE_BYTES:
            whole = content  # no line of ours: step over it
        if whole:
            self._offset += len(whole)
            self._last = whole.splitlines(keepends=True)[-1]
        return whole

    def _find_place(self, file: BinaryIO) -> None:
        """Go on after the line that was read last; where a shorter file lacks that, after the word that it is one."""
        status = os.fstat(file.fileno())
        if self._file_number not in (None, status.st_ino) or self._offset > status.st_size:
            content = file.read()
            place = content.rfind(self._last) if self._last else -1
            place = content.rfind(THINNED) if place < 0 else place
            self._offset = 0 if place < 0 else content.find(b"\n", place) + 1
        self._file_number = status.st_ino
