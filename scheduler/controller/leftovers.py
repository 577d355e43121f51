"""Memory that a process of an ended attempt still holds on a device: waited for, and reported when it stays."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.devices.device import DeviceReading
from scheduler.processes.liveness import process_started
from scheduler.store import attempts, history, observations
from scheduler.store.database import Database
from scheduler.units import format_bytes

PATIENCE_SECONDS = 60.0
LOOKED_BACK_SECONDS = 86400.0  # a pid that has not been an attempt's for longer is somebody else's

log = logging.getLogger(__name__)


@dataclass
class Leftovers:
    """Knows which foreign pids are of attempts that have ended; asks the store once for each."""

    db: Database
    clock: Callable[[], float]
    started: Callable[[int], int | None] = process_started
    _known: dict[int, history.Ended | None] = field(default_factory=dict)
    _reported: set[int] = field(default_factory=set)

    def is_ours(self, pid: int) -> bool:
        """Whether a process that belongs to no live attempt belonged to one that has ended."""
        if pid not in self._known:
            ended = history.ended_with(self.db, pid, since=self.clock() - LOOKED_BACK_SECONDS)
            same = ended is not None and self.started(pid) in (None, ended.pid_started)  # None: a driver still lists it
            self._known[pid] = ended if same else None
        return self._known[pid] is not None

    def report(self, readings: Iterable[DeviceReading]) -> None:
        """Say once of each such process that it does not give its memory back; forget what has gone."""
        held = {pid: size for reading in readings for pid, size in reading.processes}
        self._known = {pid: ended for pid, ended in self._known.items() if pid in held}
        now = self.clock()
        for pid, ended in self._known.items():
            if ended is None or now - ended.ended_at < PATIENCE_SECONDS or ended.attempt_id in self._reported:
                continue
            self._reported.add(ended.attempt_id)
            told = (ended.job_id, pid, format_bytes(held[pid]))
            log.warning("job %d has ended, and process %d still holds %s", *told, extra={"job": ended.job_id})
            attempt = attempts.get(self.db, ended.attempt_id)
            observations.note(self.db, attempt, "still_holds", {"pid": pid, "held_bytes": held[pid]}, at=now)
