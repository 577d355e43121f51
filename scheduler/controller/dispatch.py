"""Telling the worker: publishes what was admitted, and remembers what could not be told.

Owns the pace at which an attempt is published again. A message lost, doubled or late does no harm: the worker claims.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from scheduler.errors import Unreachable
from scheduler.jobs.states import WaitCode
from scheduler.periods import period
from scheduler.store.database import Database
from scheduler.store.observations import explain_admitted
from scheduler.store.records import Attempt

AGAIN_SECONDS = period(15.0)  # an admitted attempt that no worker has claimed by then is published again
AWAY_SECONDS = period(3.0)  # the same while the broker does not answer

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """The way to the workers; raises Unreachable within a few seconds."""

    def start(self, job_id: int, attempt_id: int) -> None: ...

    def adopt(self, job_id: int, attempt_id: int) -> None: ...


class _Message(NamedTuple):
    task: str
    attempt_id: int


class Dispatch:
    """Publishes; while the broker is away says so on the job, and tries again every few seconds."""

    def __init__(self, db: Database, publisher: Publisher, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._publisher = publisher
        self._monotonic = monotonic
        self._published: dict[_Message, float] = {}  # to when
        self._explained: set[int] = set()  # attempts whose job says that the broker is away
        self._away_until = 0.0
        self.complaint: str | None = None

    def start(self, attempt: Attempt) -> None:
        """Publish an admitted attempt, unless that was done a moment ago."""
        message = _Message(task="start", attempt_id=attempt.id)
        if self._due(message) and self._tell(message, attempt, self._publisher.start):
            self._say(attempt, None)
        elif self.complaint is not None and message not in self._published:
            self._say(attempt, self.complaint)

    def adopt(self, attempt: Attempt) -> None:
        """Ask a worker to look after an attempt whose shim is gone, unless that was done a moment ago."""
        message = _Message(task="adopt", attempt_id=attempt.id)
        if self._due(message) and self._tell(message, attempt, self._publisher.adopt):
            of = {"job": attempt.job_id, "attempt": attempt.number}
            log.info("job %d: attempt %d is to be adopted", attempt.job_id, attempt.number, extra=of)

    def forget_all_but(self, attempt_ids: set[int]) -> None:
        self._published = {message: at for message, at in self._published.items() if message.attempt_id in attempt_ids}
        self._explained &= attempt_ids

    def _due(self, message: _Message) -> bool:
        now = self._monotonic()
        return now >= self._away_until and now - self._published.get(message, -math.inf) >= AGAIN_SECONDS

    def _tell(self, message: _Message, attempt: Attempt, publish: Callable[[int, int], None]) -> bool:
        try:
            publish(attempt.job_id, attempt.id)
        except Unreachable as error:
            if self.complaint is None:
                log.warning("%s; tried again every %.0f s", error.message, AWAY_SECONDS)
            self.complaint = error.message
            self._away_until = self._monotonic() + AWAY_SECONDS
            return False
        if self.complaint is not None:
            log.info("the broker answers again")
        self.complaint = None
        self._published[message] = self._monotonic()
        return True

    def _say(self, attempt: Attempt, complaint: str | None) -> None:
        if complaint is not None and attempt.id not in self._explained:
            sentence = f"admitted, but the worker can't be told: {complaint}"
            explain_admitted(self._db, attempt.job_id, (WaitCode.BROKER, sentence))
            self._explained.add(attempt.id)
        elif complaint is None and attempt.id in self._explained:
            explain_admitted(self._db, attempt.job_id, None)
            self._explained.discard(attempt.id)
