"""The two Celery tasks. Both are short: they look into the store, start a process, and are done.

A message is a doorbell: whatever it says, late, twice or malformed, it does no harm and is logged.
"""

import logging
from contextlib import closing

from celery import Celery

from scheduler.broker.app import ADOPT, START
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.store.opening import open_database
from worker import launch

_logger = logging.getLogger(__name__)


def register(app: Celery, settings: Settings) -> None:
    """Teach an application our tasks."""

    @app.task(name=START)
    def start(*args: object, **kwargs: object) -> None:
        _answer(settings, START, args, kwargs)

    @app.task(name=ADOPT)
    def adopt(*args: object, **kwargs: object) -> None:
        _answer(settings, ADOPT, args, kwargs)


def _answer(settings: Settings, task: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    ids = read_ids(args, kwargs)
    if ids is None:
        _logger.warning("a malformed %s message: %.200r %.200r", task, args, kwargs)
        return
    job_id, attempt_id = ids
    try:
        with closing(open_database(settings, lean=True)) as database:
            if task == START:
                launch.start(settings, database, job_id, attempt_id)
            else:
                launch.adopt(settings, database, job_id, attempt_id)
    except MmqError as error:  # the store is away; reconcile rings again
        _logger.error("%s for job %d attempt %d: %s", task, job_id, attempt_id, error)


def read_ids(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[int, int] | None:
    """Job and attempt, if the message names just these."""
    match args:
        case (int() as job_id, int() as attempt_id) if not kwargs:
            small = all(0 < number < 1 << 63 and not isinstance(number, bool) for number in (job_id, attempt_id))
            return (job_id, attempt_id) if small else None
    return None
