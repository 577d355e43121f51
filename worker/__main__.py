"""Run this host's worker: one process, one message at a time, and nothing of Celery that we don't use."""

import logging
import os
import sys

from scheduler.broker.app import queue_name
from worker.app import app, settings


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
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
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
