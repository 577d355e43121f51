"""Whether a job waits though there is room for it: looked at again and again, since only time tells.

Room is what no attempt was promised and nobody holds of a device, at least as much as an attempt of a job of the same
name was ever promised. Reads only.
"""

import time
from collections.abc import Iterator

from scheduler.config import Settings
from scheduler.devices.ledger import read_ledger
from scheduler.jobs.states import WaitCode
from scheduler.service.lock import holder
from scheduler.store.database import Database

# Why a job may wait though there is room: by a rule that docs/admission.md tells, or for its footprint.
RULES = frozenset(
    {
        WaitCode.HELD,
        WaitCode.DEPENDENCY,
        WaitCode.TRACING,
        WaitCode.EXCLUSIVE,
        WaitCode.KEPT,
        WaitCode.SHARING,
        WaitCode.USER_LIMIT,
    }
)


OFTEN_SECONDS = 2.0  # what was seen at two looks further apart may not have been so all the time


class Waits:
    """What was seen so far. Only time in which the service is ready counts."""

    def __init__(self, settings: Settings, most_seconds: float) -> None:
        self._settings = settings
        self._most_seconds = most_seconds
        self._looked_at = 0.0  # monotonic
        self._since: dict[int, float] = {}  # monotonic, by job
        self._too_long: dict[int, str] = {}

    def look(self, db: Database) -> None:
        now = time.monotonic()
        service = holder(self._settings.service_lock)
        ready = service is not None and service.ready
        waiting = dict(waits_with_room(db, self._settings)) if ready else {}
        known = self._since if now - self._looked_at < OFTEN_SECONDS else {}
        self._since = {job: known.get(job, now) for job in waiting}
        self._looked_at = now
        for job, why in waiting.items():
            if now - self._since[job] > self._most_seconds:
                self._too_long[job] = f"job {job} waits for {now - self._since[job]:.0f} s though there is room: {why}"

    def take(self) -> list[str]:
        """What was found since the last time."""
        found, self._too_long = self._too_long, {}
        return list(found.values())


def waits_with_room(db: Database, settings: Settings) -> Iterator[tuple[int, str]]:
    """Queued jobs that could run now, and what is said of why they don't."""
    free = sorted(free_bytes(db, settings).values(), reverse=True)
    for job in db.query(
        "SELECT id, gpus, waiting_code AS code, waiting, (SELECT MAX(attempts.reserved_bytes / alike.gpus)"
        " FROM attempts JOIN jobs alike ON alike.id = attempts.job_id WHERE alike.name = jobs.name) AS needed"
        " FROM jobs WHERE state = 'queued' AND cancel_requested_at IS NULL"
    ):
        fits = job["needed"] is not None and len(free) >= job["gpus"] and free[job["gpus"] - 1] >= job["needed"]
        if fits and job["code"] not in RULES:
            yield job["id"], f"{job['code']}: {job['waiting']}"


def free_bytes(db: Database, settings: Settings) -> dict[int, int]:
    """Of each virtual device, by number: what is neither promised nor held; what ours hold counts twice, to be sure."""
    promised = db.query(
        "SELECT number, total_bytes, (SELECT COALESCE(SUM(reserved_bytes), 0) FROM reservations"
        " WHERE device_id = devices.id) AS promised FROM devices WHERE present = 1"
    )
    held = {row["number"]: read_ledger(settings.ledger_dir / f"virtual-{row['number']}").used_bytes for row in promised}
    return {row["number"]: row["total_bytes"] - row["promised"] - held[row["number"]] for row in promised}
