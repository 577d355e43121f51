"""What ended attempts took on a device, beside what was predicted of them: for the corrections of later footprints.

One that changed its micro-batch on the way counts with each, by its own prediction and its own peak.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from scheduler.store.database import Reader, Row, placeholders
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
    left = _left(db, rows)
    found = []
    for row in rows:
        spec = str(row["spec"])
        found.append(Taken(spec, int(row["predicted_reserved_bytes"]), int(row["measured_process_bytes"])))
        found += (Taken(spec, *one) for one in left[row["id"]])
    return found


class _Left(msgspec.Struct):
    predicted_reserved_bytes: int | None = None
    measured_process_bytes: int | None = None


def _left(db: Reader, attempts: Sequence[Row]) -> dict[int, list[tuple[int, int]]]:
    """The plans that these attempts left, where both figures of one are known: by attempt, in their order."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    if not attempts:
        return found
    names, jobs = placeholders("job", sorted({row["job_id"] for row in attempts}))  # by which events are indexed
    rows = db.query(
        f"SELECT attempt_id, detail FROM events WHERE job_id IN ({names}) AND kind = :kind ORDER BY id",  # noqa: S608
        kind=LEFT,
        **jobs,
    )
    for row in rows:
        one = msgspec.json.decode(row["detail"], type=_Left)
        if one.predicted_reserved_bytes is not None and one.measured_process_bytes is not None:
            found[row["attempt_id"]].append((one.predicted_reserved_bytes, one.measured_process_bytes))
    return found
