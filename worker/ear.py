"""Whether this worker still hears. Celery can lose its consumer for good when the broker dies while a message is being
answered (seen once in 500 random faults): the process lives, messages lie in the queue, and it takes none of them.

Owns the finding; who asks ends the process.
"""

import contextlib
import time

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from scheduler.broker.app import queue_name
from scheduler.broker.reach import reachable
from scheduler.config import Settings
from scheduler.periods import period

DEAF_SECONDS = period(30.0)


class Ear:
    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._busy = False
        self._unheard_since: float | None = None  # monotonic

    def begin(self, **_: object) -> None:
        """A message was taken."""
        self._busy = True

    def end(self, **_: object) -> None:
        """It has been answered."""
        self._busy = False
        self._unheard_since = None

    def deaf(self) -> bool:
        """Whether messages have been waiting at each look for so long, and this worker, idle, took none."""
        if self._busy or not self._waiting():
            self._unheard_since = None
            return False
        now = time.monotonic()
        if self._unheard_since is None:
            self._unheard_since = now
        return now - self._unheard_since >= DEAF_SECONDS

    def _waiting(self) -> int:
        if not reachable(self._settings, limit_seconds=1.0):
            return 0
        with (
            contextlib.suppress(OperationalError, RedisError, OSError),  # it is away after all
            self._app.connection_for_write() as connection,
        ):
            return int(connection.default_channel.client.llen(queue_name(self._settings.host)))
        return 0
