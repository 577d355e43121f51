"""Whether this worker's Celery consumer still takes messages. It can be lost for good when the broker dies while a
message is being answered (seen once in 500 random faults): the process lives, and messages stay in the queue.

Only finds out; the caller ends the process.
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

STALLED_SECONDS = period(30.0)


class ConsumerWatch:
    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._busy = False
        self._waiting_since: float | None = None  # monotonic

    def message_taken(self, **_: object) -> None:
        self._busy = True

    def message_answered(self, **_: object) -> None:
        self._busy = False
        self._waiting_since = None

    def is_stalled(self) -> bool:
        """Whether messages have been waiting at each look for so long, and this worker, idle, took none."""
        if self._busy or not self._queued():
            self._waiting_since = None
            return False
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since >= STALLED_SECONDS

    def _queued(self) -> int:
        if not reachable(self._settings, limit_seconds=1.0):
            return 0
        with (
            contextlib.suppress(OperationalError, RedisError, OSError),  # it is away after all
            self._app.connection_for_write() as connection,
        ):
            return int(connection.default_channel.client.llen(queue_name(self._settings.host)))
        return 0
