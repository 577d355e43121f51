"""Whose jobs a person may change: their own, as the kernel knows who logged in, whatever the environment says."""

from collections.abc import Sequence

from scheduler.config import Settings
from scheduler.errors import NotPermitted
from scheduler.store.records import Job


def require_owner(jobs: Sequence[Job], settings: Settings) -> None:
    """Raise NotPermitted if one of the jobs is another's."""
    for job in jobs:
        if job.user_name != settings.user:
            raise NotPermitted(
                f"job {job.id} ({job.name}) belongs to {job.user_name}, and you are {settings.user}",
                hint=f"mmq status --user {settings.user}",
            )
