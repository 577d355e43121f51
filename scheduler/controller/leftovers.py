"""Memory that a process of an ended attempt still holds on a device: waited for, and reported when it stays."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.devices.device import DeviceReading
from scheduler.processes.liveness import process_started
from scheduler.store import attempts, history, observations
from scheduler.store.database import Database
from scheduler.store.history import Ended
from scheduler.units import format_bytes

PATIENCE_SECONDS = 60.0
LOOKED_BACK_SECONDS = 86400.0  # a pid that has not been an attempt's for longer is somebody else's

log = logging.getLogger(__name__)


class _Answer(NamedTuple):
    ended: Ended | None
    asked_at: float


@dataclass
class Leftovers:
    """Knows which foreign pids are of attempts that have ended; asks the store now and then for each.

    Not once and for all: a trainer that starts between the reading of the store and that of the devices is foreign
    to this cycle, and may be left over in the next.
    """

    db: Database
    clock: Callable[[], float]
    started: Callable[[int], int | None] = process_started
    _answers: dict[int, _Answer] = field(default_factory=dict)
    _reported: set[int] = field(default_factory=set)

    def is_ours(self, pid: int) -> bool:
        """Whether a process that belongs to no live attempt belonged to one that has ended."""
        now = self.clock()
        answer = self._answers.get(pid)
        if answer is None or (answer.ended is None and not 0 <= now - answer.asked_at < PATIENCE_SECONDS):
            ended = history.ended_with(self.db, pid, since=now - LOOKED_BACK_SECONDS)
            answer = self._answers[pid] = _Answer(ended, now)
        return self._is_of(pid, answer.ended)

    def report(self, readings: Iterable[DeviceReading]) -> None:
        """Say once of each such process that it does not give its memory back; forget what has gone."""
        held: Counter[int] = Counter()
        for reading in readings:
            held.update(dict(reading.processes))
        self._answers = {pid: answer for pid, answer in self._answers.items() if pid in held}
        now = self.clock()
        for pid, (ended, _) in self._answers.items():
            if ended is None or not self._is_of(pid, ended) or ended.attempt_id in self._reported:
                continue
            if now - ended.ended_at >= PATIENCE_SECONDS:
                self._report(pid, ended, held[pid], now)

    def _report(self, pid: int, ended: Ended, held_bytes: int, now: float) -> None:
        self._reported.add(ended.attempt_id)
        message = "job %d has ended, and process %d still holds %s"
        log.warning(message, ended.job_id, pid, format_bytes(held_bytes), extra={"job": ended.job_id})
        attempt = attempts.get(self.db, ended.attempt_id)
        observations.note(self.db, attempt, "still_holds", {"pid": pid, "held_bytes": held_bytes}, at=now)

    def _is_of(self, pid: int, ended: Ended | None) -> bool:
        """Whether it is that attempt's process and no later one with its pid; None: a driver still lists it."""
        return ended is not None and self.started(pid) in (None, ended.pid_started)
