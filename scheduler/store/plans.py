"""The plan by which an attempt runs: as admitted, until its trainer halves its micro-batch or is asked for another.

Each plan has its own prediction and peaks. The attempt's row has those of the current one; those of a plan that is
left go into the event log.
"""

from typing import Any, NamedTuple

import msgspec

from scheduler.store.attempt_rows import PEAKS
from scheduler.store.database import Transaction
from scheduler.store.records import Attempt
from scheduler.store.transitions import record

LEFT = "plan_left"


class Prediction(NamedTuple):
    """Bytes that a process would take at its peak."""

    allocated_bytes: int
    reserved_bytes: int
    process_bytes: int


class _Predictions(msgspec.Struct):
    """As much of a plan as is read here; plans of earlier versions have none."""

    predicted: dict[int, Prediction] = {}


def change_plan(tx: Transaction, attempt: Attempt, micro_batch: int | None, *, at: float) -> dict[str, Any]:
    """Record what is known of the plan that is left, if the micro-batch changes; return the columns to reset."""
    if micro_batch is None or micro_batch == attempt.micro_batch:
        return {}
    known = ("micro_batch", "predicted_reserved_bytes", "predicted_process_bytes", "measured_process_bytes")
    detail = {name: getattr(attempt, name) for name in known}
    record(tx, attempt.job_id, LEFT, at=at, attempt_id=attempt.id, detail=detail)
    prediction = msgspec.json.decode(attempt.plan, type=_Predictions).predicted.get(micro_batch)
    sizes = dict.fromkeys(Prediction._fields) if prediction is None else prediction._asdict()
    return {f"predicted_{name}": size for name, size in sizes.items()} | dict.fromkeys(PEAKS)
