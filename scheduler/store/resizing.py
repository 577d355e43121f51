"""Asking a running attempt for another micro-batch: requested, written to its control file by the shim, acknowledged.

No memory is ever promised twice: a growth reserves before it is requested, a shrink releases once the trainer has
acknowledged it. What is requested already, or in force, is not requested again.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from scheduler.jobs.states import AttemptState
from scheduler.store.admitting import promised_bytes
from scheduler.store.attempt_rows import get, write
from scheduler.store.database import Database, Transaction
from scheduler.store.records import Attempt, Resizing
from scheduler.store.transitions import record


class Resize(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how much each of the attempt's devices may be promised in all."""

    micro_batch: int
    limit_bytes: int  # on each of its devices
    device_limits: Mapping[str, int]
    why: str


def request_resize(db: Database, attempt_id: int, resize: Resize, *, at: float) -> bool:
    """Ask for a resize; False where the attempt can't be asked now, or a growth has no room any more."""
    with db.transaction() as tx:
        attempt = get(tx, attempt_id)
        if attempt.state is not AttemptState.RUNNING or attempt.stop_requested_at is not None:
            return False
        if (resize.micro_batch, resize.limit_bytes) == _in_force(tx, attempt):
            return True
        if not _reserve(tx, attempt, resize):
            return False
        number = (attempt.wanted_number or 0) + 1
        wanted: dict[str, Any] = {
            "wanted_number": number,
            "wanted_micro_batch": resize.micro_batch,
            "wanted_limit_bytes": resize.limit_bytes,
            "wanted_at": at,
        }
        write(tx, attempt_id, wanted)
        detail = {"number": number, "micro_batch": resize.micro_batch, "limit_bytes": resize.limit_bytes}
        record(tx, attempt.job_id, "resize_asked", at=at, attempt_id=attempt_id, detail=detail | {"why": resize.why})
        return True


def acknowledge(tx: Transaction, attempt: Attempt, heeded_number: int | None) -> None:
    """Give back what a shrink has freed, once the trainer has heeded the latest that was asked."""
    limit_bytes = attempt.wanted_limit_bytes
    if limit_bytes is None or heeded_number != attempt.wanted_number or heeded_number == attempt.heeded_number:
        return
    _write_reservations(tx, attempt.id, dict.fromkeys(reserved(tx, attempt.id), limit_bytes))


def resizing(attempt: Attempt) -> Resizing | None:
    """What the trainer still has to be told; None once it has heeded it."""
    number, micro_batch, limit_bytes = attempt.wanted_number, attempt.wanted_micro_batch, attempt.wanted_limit_bytes
    if not attempt.resizing or number is None or micro_batch is None or limit_bytes is None:
        return None
    return Resizing(number=number, micro_batch=micro_batch, limit_bytes=limit_bytes)


def reserved(tx: Transaction, attempt_id: int) -> dict[str, int]:
    rows = tx.query("SELECT device_id, reserved_bytes FROM reservations WHERE attempt_id = :id", id=attempt_id)
    return {str(row["device_id"]): int(row["reserved_bytes"]) for row in rows}


def _in_force(tx: Transaction, attempt: Attempt) -> tuple[int | None, int | None]:
    """What is asked already, else how it runs."""
    if attempt.resizing:
        return attempt.wanted_micro_batch, attempt.wanted_limit_bytes
    return attempt.micro_batch, max(reserved(tx, attempt.id).values(), default=None)


def _reserve(tx: Transaction, attempt: Attempt, resize: Resize) -> bool:
    """Promise what a growth will take, on all of its devices or on none; what a shrink frees is still held."""
    raised = {
        device_id: resize.limit_bytes
        for device_id, size in reserved(tx, attempt.id).items()
        if size < resize.limit_bytes
    }
    for device_id, size in raised.items():
        others = promised_bytes(tx, device_id) - reserved(tx, attempt.id)[device_id]
        if others + size > resize.device_limits.get(device_id, 0):
            return False
    _write_reservations(tx, attempt.id, raised)
    return True


def _write_reservations(tx: Transaction, attempt_id: int, sizes: Mapping[str, int]) -> None:
    for device_id, size in sizes.items():
        tx.execute(
            "UPDATE reservations SET reserved_bytes = :size WHERE attempt_id = :id AND device_id = :device_id",
            size=size,
            id=attempt_id,
            device_id=device_id,
        )
    if sizes:
        write(tx, attempt_id, {"reserved_bytes": sum(reserved(tx, attempt_id).values())})
