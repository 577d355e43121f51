"""A reservation follows what the job really uses: lowered once it has passed its peak, or runs smaller than planned.

The cap goes with it, so the trainer is told by the same control file as any resize. What was seen held is never taken.
"""

from collections.abc import Iterable

from scheduler.admission.decisions import Admit, Decision, Resize
from scheduler.admission.plan import need_bytes
from scheduler.controller.residents import Resident
from scheduler.controller.snapshot import Snapshot
from scheduler.store import attempts
from scheduler.store.database import Database

PAST_PEAK_STEPS = 100  # without a new peak
ROOM_ABOVE_PEAK = 1.05
WORTHWHILE = 0.95  # of a reservation: what is not below this stays as it is


def follow(db: Database, snapshot: Snapshot, decisions: Iterable[Decision], *, now: float) -> None:
    """Ask those jobs to give back what they do not use that nothing else was asked of in this cycle."""
    asked = {resize.job_id for decision in decisions for resize in _resizes(decision)}
    kinds = {view.device_id: view.kind for view in snapshot.devices}
    for resident in snapshot.residents:
        attempt = resident.attempt
        if attempt.job_id in asked or attempt.resizing or not resident.answers(now):
            continue
        if not resident.device_ids or not kinds.keys() >= set(resident.device_ids):
            continue  # one of its devices has gone
        held_bytes = snapshot.held.get(attempt.id, 0)
        size = wanted_bytes(resident, kinds[resident.device_ids[0]], held_bytes)
        if size is not None and size * len(resident.device_ids) < WORTHWHILE * attempt.reserved_bytes:
            resize = attempts.Resize(
                micro_batch=attempt.micro_batch,
                limit_bytes=size,
                device_limits={},
                why="its reservation follows what it uses",
            )
            attempts.request_resize(db, attempt.id, resize, at=now)


def wanted_bytes(resident: Resident, kind: str, held_bytes: int) -> int | None:
    """Return what the job needs of each device as it runs now; None while nothing better is known than it has.

    `held_bytes` is the most that its processes were seen to hold on any of them.
    """
    attempt, known = resident.attempt, []
    planned = next((one for one in resident.ladder(kind) if one.micro_batch == attempt.micro_batch), None)
    if planned is not None:
        known.append(need_bytes(kind, planned))
    if attempt.peak_bytes and (attempt.step or 0) - (attempt.peak_step or 0) >= PAST_PEAK_STEPS:
        known.append(int(attempt.peak_bytes * ROOM_ABOVE_PEAK))
    if not known:
        return None
    return max(min(known), held_bytes, attempt.peak_bytes or 0)


def _resizes(decision: Decision) -> tuple[Resize, ...]:
    if isinstance(decision, Resize):
        return (decision,)
    return decision.shrinks if isinstance(decision, Admit) else ()
