"""Measured peaks of ended attempts beside what was predicted: the residuals that correct later footprints.

An attempt that changed its micro-batch counts once for each, by its own prediction and its own peak.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from scheduler.store.database import Reader, Row, placeholders
from scheduler.store.plans import LEFT


class MeasuredPeak(NamedTuple):
    spec: str  # the job's, JSON
    predicted_reserved_bytes: int
    measured_process_bytes: int


def measured_peaks(db: Reader, *, host: str, kind: str, latest: int) -> list[MeasuredPeak]:
    """Read all plans whose peaks are known of the latest ended attempts on a host's devices of a kind."""
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
    earlier = _earlier_plans(db, rows)
    peaks = []
    for row in rows:
        spec = str(row["spec"])
        peaks.append(MeasuredPeak(spec, int(row["predicted_reserved_bytes"]), int(row["measured_process_bytes"])))
        peaks += (MeasuredPeak(spec, *sizes) for sizes in earlier[row["id"]])
    return peaks


class _PlanLeft(msgspec.Struct):
    predicted_reserved_bytes: int | None = None
    measured_process_bytes: int | None = None


def _earlier_plans(db: Reader, attempts: Sequence[Row]) -> dict[int, list[tuple[int, int]]]:
    """Predicted and measured bytes of the plans that these attempts left, where both are known: by attempt."""
    sizes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    if not attempts:
        return sizes
    names, jobs = placeholders("job", sorted({row["job_id"] for row in attempts}))  # by which events are indexed
    rows = db.query(
        f"SELECT attempt_id, detail FROM events WHERE job_id IN ({names}) AND kind = :kind ORDER BY id",  # noqa: S608
        kind=LEFT,
        **jobs,
    )
    for row in rows:
        plan = msgspec.json.decode(row["detail"], type=_PlanLeft)
        if plan.predicted_reserved_bytes is not None and plan.measured_process_bytes is not None:
            sizes[row["attempt_id"]].append((plan.predicted_reserved_bytes, plan.measured_process_bytes))
    return sizes
