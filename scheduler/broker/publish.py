"""Ring a worker: publish a start or an adoption. Called after the store has committed, never before.

Owns the time limit: a broker that is away, hung, full or read-only costs at most a few seconds and an `Unreachable`.
What was not published is published again by the controller's reconcile pass.
"""

import functools
import logging

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from scheduler.broker.address import broker_address
from scheduler.broker.app import ADOPT, START, TRANSPORT, make_app, queue_name
from scheduler.broker.reach import reachable
from scheduler.config import Settings
from scheduler.errors import Unreachable

MOST_WAITING = 1000  # messages: a worker that is away for a night must not fill the broker
_LIMITED = TRANSPORT | {"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0}

_logger = logging.getLogger(__name__)


def publish_start(settings: Settings, job_id: int, attempt_id: int, *, host: str | None = None) -> None:
    """Ask the workers of a host (this one) to claim and start an attempt; Unreachable if the broker is away."""
    _publish(settings, START, job_id, attempt_id, host or settings.host)


def publish_adopt(settings: Settings, job_id: int, attempt_id: int, *, host: str | None = None) -> None:
    """Ask the workers of a host (this one) to look after an attempt whose shim is gone; Unreachable likewise."""
    _publish(settings, ADOPT, job_id, attempt_id, host or settings.host)


def _publish(settings: Settings, task: str, job_id: int, attempt_id: int, host: str) -> None:
    unreachable = Unreachable(f"the broker at {broker_address(settings).shown} does not answer", hint="mmq doctor")
    if not reachable(settings, limit_seconds=1.0):
        raise unreachable  # a hung broker is found out here, before the client's own retries begin
    app = _app(settings)
    try:
        # A new connection each time: a pooled one may have died with the broker since.
        with app.connection_for_write(transport_options=_LIMITED) as connection:
            _purge_if_full(connection, queue_name(host))
            app.send_task(
                task,
                args=[job_id, attempt_id],
                queue=queue_name(host),
                connection=connection,
                retry=False,
                ignore_result=True,
            )
    except (OperationalError, RedisError, OSError) as error:
        raise unreachable from error


def _purge_if_full(connection: Connection, queue: str) -> None:
    """Empty a queue that no worker has read for long: its messages are doorbells, and published again."""
    waiting = connection.default_channel.queue_declare(queue=queue).message_count
    if waiting >= MOST_WAITING:
        connection.default_channel.queue_purge(queue)
        _logger.warning("emptied the queue %s: %d messages waited in it", queue, waiting)


@functools.lru_cache(maxsize=1)
def _app(settings: Settings) -> Celery:
    return make_app(settings)
