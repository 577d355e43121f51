"""What ended attempts took on a device, beside what was predicted of them: for the corrections of later footprints.

One that changed its micro-batch on the way counts with each, by its own prediction and its own peak.
"""

from typing import NamedTuple

import msgspec

from scheduler.store.database import Reader
from scheduler.store.plans import LEFT


class Taken(NamedTuple):
    spec: str  # the job's, JSON
    predicted_reserved_bytes: int
    measured_process_bytes: int


def taken(db: Reader, *, host: str, kind: str, latest: int) -> list[Taken]:
    """Read the latest ended attempts on a host's devices of a kind, all their plans whose peaks are known."""
    rows = db.query(
        "SELECT attempts.id, attempts.job_id, jobs.spec, attempts.predicted_reserved_bytes,"
        " attempts.measured_process_bytes FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE attempts.state = 'ended' AND attempts.host = :host AND attempts.device LIKE :device"
        " AND attempts.predicted_reserved_bytes IS NOT NULL AND attempts.measured_process_bytes IS NOT NULL"
        " ORDER BY attempts.id DESC LIMIT :latest",
        host=host,
        device=f"{kind}:%",
        latest=latest,
    )
    found = []
    for row in rows:
        spec = str(row["spec"])
        found.append(Taken(spec, int(row["predicted_reserved_bytes"]), int(row["measured_process_bytes"])))
        found += (Taken(spec, *one) for one in _left(db, row["job_id"], row["id"]))
    return found


class _Left(msgspec.Struct):
    predicted_reserved_bytes: int | None = None
    measured_process_bytes: int | None = None


def _left(db: Reader, job_id: int, attempt_id: int) -> list[tuple[int, int]]:
    rows = db.query(
        "SELECT detail FROM events WHERE job_id = :job_id AND attempt_id = :attempt_id AND kind = :kind ORDER BY id",
        job_id=job_id,
        attempt_id=attempt_id,
        kind=LEFT,
    )
    told = (msgspec.json.decode(row["detail"], type=_Left) for row in rows)
    known = ((one.predicted_reserved_bytes, one.measured_process_bytes) for one in told)
    return [(predicted, measured) for predicted, measured in known if predicted is not None and measured is not None]
