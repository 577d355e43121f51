"""`control.json` in the run directory: another micro-batch for a run that is under way, from its next step.

Owns the file's form and when it counts: as it is found before a step, once for each `number`. What becomes of it, the
loop does. Replace the file in one piece (write another, rename it): a look costs one stat.
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from trainer.files.storage import read_record
from trainer.processes.group import Group
from trainer.reporting.events import EventLog
from trainer.reporting.log import say

NAME = "control.json"
_NOTHING = (0, 0, 0)


class Control(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=1, lt=1 << 53)]  # a new one for each request
    micro_batch: Annotated[int, Meta(ge=1, le=1 << 40)]  # of one process
    limit_bytes: Annotated[int, Meta(ge=1, lt=1 << 53)] | None = None  # as device.limit_bytes in CONFIG; null: none


class ControlFile:
    """The requests to a run. The first of several processes looks for one, and all get it."""

    def __init__(self, run_dir: Path, group: Group, events: EventLog) -> None:
        self._path = run_dir / NAME
        self._group = group
        self._events = events
        self._seen: tuple[int, ...] | None = None
        self._last_number = 0

    def next_request(self) -> Control | None:
        """Return a request that has not been returned before; all processes call it together."""
        request = self._read() if self._group.rank == 0 else None
        numbers = _NOTHING if request is None else (request.number, request.micro_batch, request.limit_bytes or 0)
        number, micro_batch, limit_bytes = (int(total) for total in self._group.sums(*numbers))
        if number in (0, self._last_number):
            return None
        self._last_number = number
        return Control(number=number, micro_batch=micro_batch, limit_bytes=limit_bytes or None)

    def _read(self) -> Control | None:
        """Read the file if it has changed since the last look; one that is no request is reported, and left alone."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            return msgspec.json.decode(read_record(self._path), type=Control)
        except (OSError, ValueError, RecursionError) as error:
            self._events.write("control_refused", message=f"{self._path}: {error}")
            say(f"{self._path} is not a valid request, so nothing changes: {error}")
            return None
