"""The Celery worker of one host: `python -m worker`, or `celery -A worker.app worker --pool solo`.

Owns the application with our tasks, and the worker's heartbeat row. Never imports torch.
"""

import logging
import os
import threading
import time
from contextlib import closing

from celery import Celery
from celery.signals import task_postrun, task_prerun, worker_ready, worker_shutdown

from scheduler.broker.app import make_app
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.periods import period
from scheduler.processes.liveness import process_started
from scheduler.store import heartbeats
from scheduler.store.opening import open_database
from worker import tasks
from worker.consumer_watch import ConsumerWatch

BEAT_SECONDS = period(5.0)

_logger = logging.getLogger(__name__)


def build(settings: Settings) -> Celery:
    application = make_app(settings)
    tasks.register(application, settings)
    return application


class Heartbeat:
    """Says every few seconds that this worker lives, from the moment it can take messages; ends one that takes none."""

    def __init__(self, settings: Settings, consumer: ConsumerWatch) -> None:
        self._settings = settings
        self._consumer = consumer
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while True:
            try:
                self._beat()
            except MmqError as error:
                _logger.warning("no heartbeat: %s", error)
            if self._consumer.is_stalled():
                _logger.critical("messages wait, and this worker takes none: it ends, for another to be started")
                os._exit(1)
            if self._over.wait(BEAT_SECONDS):
                return

    def _beat(self) -> None:
        pid = os.getpid()
        with closing(open_database(self._settings, lean=True)) as database:
            heartbeats.beat(database, f"worker@{self._settings.host}", pid, process_started(pid) or 0, at=time.time())


settings = Settings.from_environment()
app = build(settings)
consumer = ConsumerWatch(app, settings)
heartbeat = Heartbeat(settings, consumer)
task_prerun.connect(consumer.message_taken)
task_postrun.connect(consumer.message_answered)


@worker_ready.connect
def begin(**_: object) -> None:
    heartbeat.start()


@worker_shutdown.connect
def end(**_: object) -> None:
    heartbeat.stop()
