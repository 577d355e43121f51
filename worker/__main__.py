"""Run this host's worker: one process, one message at a time, and nothing of Celery that we don't use."""

import contextlib
import logging
import os
import sys

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from scheduler.broker.app import queue_name
from scheduler.processes.logsetup import log_to_stderr
from worker.app import app, settings


def main() -> int:
    log_to_stderr("worker")
    worker = app.Worker(
        hostname=f"mmq-{os.getpid()}@{settings.host}",
        pool_cls="solo",
        concurrency=1,
        queues=[queue_name(settings.host)],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="INFO",
        quiet=True,
    )
    worker.start()
    if worker.exitcode:
        discard_messages()
    return int(worker.exitcode or 0)


def discard_messages() -> None:
    """Empty the queue after a message that ended the worker: more like it would cost one more worker each.

    What was waiting among them is lost, and published again by the controller's next reconcile pass.
    """
    with contextlib.suppress(OperationalError, RedisError, OSError), app.connection_for_write() as connection:
        discarded = connection.default_channel.queue_purge(queue_name(settings.host))
        logging.getLogger(__name__).warning("discarded %d messages: one of them could not be read", discarded)


if __name__ == "__main__":
    sys.exit(main())
