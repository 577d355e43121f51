"""What the shim writes to the store, which may be away for minutes: in order, nothing lost, and nobody waits for it.

Owns the retries. The store is opened anew each time, so that a backup put in its place is seen. The trainer must never
suffer from a store that can't be written.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing

from scheduler.broker.doorbell import ring
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.periods import period
from scheduler.processes.liveness import boot_id, process_started
from scheduler.store import attempts, observations
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from scheduler.store.records import Attempt, Orders, Outcome, Progress
from worker.process import Process
from worker.shimlog import log
from worker.tail import TrainerEvent

MAX_PAUSE_SECONDS = period(30.0)
FINISH_PATIENCE_SECONDS = 600.0
MAX_WAITING = 10_000

Query = Callable[[Database], Orders | None]
Write = Callable[[Database], object]


class Reporter:
    """One attempt's connection to the store. `pid` and start of the shim are those of the process that makes this."""

    def __init__(self, settings: Settings, attempt: Attempt, *, pid: int) -> None:
        self._settings = settings
        self.attempt = attempt  # as the store knows it by now
        self._start: Write | None = None  # writes that the trainer has started
        self._shim_pid = pid
        self._shim_started = process_started(pid) or 0
        self._boot_id = boot_id()
        self._waiting: deque[Write] = deque(maxlen=MAX_WAITING)
        self._pause_seconds = 0.0
        self._next_try = 0.0  # monotonic

    def alive(self, at: float) -> Orders | None:
        """Name ourselves as the one who looks after the attempt; the store's orders, None if it can't be reached."""
        return self._send(
            lambda db: attempts.shim_alive(
                db,
                self.attempt.id,
                shim_pid=self._shim_pid,
                shim_started=self._shim_started,
                boot_id=self._boot_id,
                at=at,
            )
        )

    def started(self, process: Process, at: float) -> None:
        self._start = lambda db: attempts.started(
            db,
            self.attempt.id,
            pid=process.pid,
            pid_started=process.started,
            shim_pid=self._shim_pid,
            shim_started=self._shim_started,
            boot_id=self._boot_id,
            at=at,
        )
        self._waiting.append(self._start)

    def note(self, event: TrainerEvent, at: float) -> None:
        """Put an event of the trainer's into the job's story, at the time it happened."""
        detail = {key: _finite_or_none(value) for key, value in event.items() if key not in ("event", "attempt", "at")}
        self._waiting.append(lambda db: observations.note(db, self.attempt, event["event"], detail, at=at))

    def reached(self, progress: Progress, at: float) -> None:
        """Write how far the trainer came, before its end is written."""

        def write(db: Database) -> None:
            attempts.heartbeat(db, self.attempt.id, progress, at=at)

        self._waiting.append(write)

    def beat(self, progress: Progress, at: float) -> Orders | None:
        """Write all that waits, then how far the trainer is; None while the store can't be written."""
        return self._send(lambda db: attempts.heartbeat(db, self.attempt.id, progress, at=at))

    def ring(self) -> None:
        """Wake the controller."""
        ring(self._settings)

    def finish(self, outcome: Outcome, at: float) -> bool:
        """End the attempt, trying for minutes; False if the store stayed away: then exit.json has to do."""

        def end(db: Database) -> None:
            attempts.finish(db, self.attempt.id, outcome, at=at)

        deadline = time.monotonic() + FINISH_PATIENCE_SECONDS
        while True:
            if self._send(end) is not None:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(max(0.05, self._next_try - time.monotonic()))

    def _send(self, query: Query) -> Orders | None:
        if time.monotonic() < self._next_try:
            return None
        try:
            with closing(open_database(self._settings, lean=True)) as database:
                self._bind(database)
                while self._waiting:
                    self._waiting[0](database)
                    self._waiting.popleft()
                orders = query(database)
        except MmqError as error:
            self._back_off(error)
            return None
        self._pause_seconds = 0.0
        return orders or Orders()

    def _bind(self, database: Database) -> None:
        """Make sure that the store means the same attempt as we, also where an older copy was put in its place.

        There the id may be another's, and once `mmq doctor --fix` has entered the attempt anew, ours is another.
        """
        attempt = attempts.same(database, self.attempt)
        if attempt is None:
            raise MmqError(f"the store does not know attempt {self.attempt.number} any more", hint="mmq doctor --fix")
        self.attempt = attempt
        if attempt.pid is None and self._start is not None and self._start not in self._waiting:
            self._waiting.appendleft(self._start)

    def _back_off(self, error: MmqError) -> None:
        self._pause_seconds = min(MAX_PAUSE_SECONDS, self._pause_seconds * 2 or 0.5)
        self._next_try = time.monotonic() + self._pause_seconds
        log(f"the store can't be written: {error}; next try in {self._pause_seconds:.1f} s")


def _finite_or_none(value: object) -> object:
    """JSON has no NaN and no infinity, which a loss may become."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
