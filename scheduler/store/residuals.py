"""What ended attempts took on a device, beside what was predicted of them: for the corrections of later footprints."""

from typing import NamedTuple

from scheduler.store.database import Reader


class Taken(NamedTuple):
    spec: str  # the job's, JSON
    predicted_reserved_bytes: int
    measured_process_bytes: int


def taken(db: Reader, *, host: str, kind: str, latest: int) -> list[Taken]:
    """Read the latest ended attempts on a host's devices of a kind whose peaks are known."""
    rows = db.query(
        "SELECT jobs.spec, attempts.predicted_reserved_bytes, attempts.measured_process_bytes"
        " FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE attempts.state = 'ended' AND attempts.host = :host AND attempts.device LIKE :device"
        " AND attempts.predicted_reserved_bytes IS NOT NULL AND attempts.measured_process_bytes IS NOT NULL"
        " ORDER BY attempts.id DESC LIMIT :latest",
        host=host,
        device=f"{kind}:%",
        latest=latest,
    )
    return [Taken(str(row["spec"]), int(row[_PREDICTED]), int(row[_MEASURED])) for row in rows]


_PREDICTED, _MEASURED = "predicted_reserved_bytes", "measured_process_bytes"
