"""Step 6 of the admission cycle: what was decided becomes rows and messages. The store checks each once more."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.admission.decisions import Admit, Decision, Refuse, Resize, Wait
from scheduler.admission.facts import QueuedJob, Untraced
from scheduler.admission.plan import Plan
from scheduler.config import Settings
from scheduler.controller.dispatch import Dispatch
from scheduler.controller.inventory import Inventory, target_of
from scheduler.controller.residents import Resident
from scheduler.devices.device import Devices, Launch
from scheduler.devices.gang import combine, label, with_nccl_room
from scheduler.errors import MmqError
from scheduler.failpoints import failpoint
from scheduler.footprint.curve import Footprint
from scheduler.jobs.states import JobState, WaitCode
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from scheduler.store.plans import Prediction
from scheduler.store.records import Attempt, NewAttempt
from scheduler.store.transitions import IllegalTransition, move
from scheduler.units import format_bytes

log = logging.getLogger(__name__)

Traced = Footprint | Untraced


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Carries one cycle's decisions out. They were made from `queue`, `residents` and `inventory`."""

    db: Database
    settings: Settings
    devices: Devices
    dispatch: Dispatch
    inventory: Inventory
    queue: Iterable[QueuedJob]
    residents: Iterable[Resident]
    reasons: Mapping[int, tuple[str | None, str | None]]  # by job: the code and sentence of waiting that the store has
    now: float

    def apply(self, decisions: Iterable[Decision]) -> None:
        """Admit and publish, refuse, and write down why the rest waits, where that is not what the store has."""
        live = {resident.attempt.job_id: resident for resident in self.residents}
        footprints = {job.job_id: job.footprints for job in self.queue}
        waits: dict[int, tuple[str, str]] = {}
        for decision in decisions:
            try:
                waiting = self._apply(decision, live, footprints)
            except Exception as error:  # one job that we fail on must not stop the queue
                if isinstance(error, MmqError) and not isinstance(error, IllegalTransition):
                    raise  # the store is away: nothing can be done for any job
                log.exception("job %d: what was decided can't be done", decision.job_id, extra={"job": decision.job_id})
                waiting = WaitCode.ERROR.value, f"mmq itself failed on it: {type(error).__name__}: {error}"
            if waiting is not None:
                waits[decision.job_id] = waiting
        jobs.explain_waiting(self.db, {job_id: why for job_id, why in waits.items() if self.reasons.get(job_id) != why})

    def _apply(
        self, decision: Decision, live: Mapping[int, Resident], footprints: Mapping[int, Mapping[str, Traced]]
    ) -> tuple[str, str] | None:
        """Carry one decision out; return why its job waits now, if it does."""
        match decision:
            case Admit() if decision.shrinks or decision.preempts:
                return _make_room(self.db, decision, live, self.now)
            case Admit():
                self._admit(decision, footprints[decision.job_id])
            case Resize():
                _resize(self.db, decision, live, self.now)
            case Refuse():
                _refuse(self.db, decision, self.now)
            case Wait():
                return _leaving(decision, live) or (decision.code.value, decision.sentence)
        return None

    def _admit(self, decision: Admit, footprints: Mapping[str, Traced]) -> None:
        new = _new_attempt(decision, footprints, self.settings, self.devices, self.inventory)
        attempt = attempts.admit(self.db, decision.job_id, new, at=self.now)
        if attempt is None:
            return  # cancelled or held since the snapshot: the next cycle sees it
        failpoint("admission.committed")
        _log_admission(decision, attempt)
        self.dispatch.start(attempt)
        failpoint("admission.published")


def _make_room(db: Database, decision: Admit, live: Mapping[int, Resident], now: float) -> tuple[str, str]:
    """Ask those who are in the way; the job is admitted in a later cycle, once they have done as asked."""
    for resize in decision.shrinks:
        _resize(db, resize, live, now)
    for job_id in decision.preempts:
        if job_id in live:
            attempts.request_stop(db, live[job_id].attempt.id, at=now, preempted_for=decision.job_id)
    if decision.preempts:
        return _preempting(decision.preempts)
    changes = "; ".join(_shrinks(resize, live) for resize in decision.shrinks)
    return WaitCode.SHRINKING.value, f"{changes} to make room for it"


def _leaving(decision: Wait, live: Mapping[int, Resident]) -> tuple[str, str] | None:
    """Say so where a job is still on its way out for this one."""
    leaving = [one.attempt.job_id for one in live.values() if one.attempt.preempted_for == decision.job_id]
    return _preempting(leaving) if leaving else None


def _preempting(job_ids: Sequence[int]) -> tuple[str, str]:
    they = " and ".join(f"job {job_id}" for job_id in job_ids)
    return (
        WaitCode.PREEMPTING.value,
        f"{they} {'is' if len(job_ids) == 1 else 'are'} saving and stopping to make room for it",
    )


def _shrinks(resize: Resize, live: Mapping[int, Resident]) -> str:
    of = f" of {live[resize.job_id].attempt.micro_batch}" if resize.job_id in live else ""
    return f"job {resize.job_id} goes on with micro-batch {resize.candidate.micro_batch} instead{of}"


def _resize(db: Database, resize: Resize, live: Mapping[int, Resident], now: float) -> None:
    """Ask for it; asked again each cycle until it is acknowledged, which changes nothing."""
    if resize.job_id not in live:
        return
    attempt, candidate = live[resize.job_id].attempt, resize.candidate
    wanted = attempts.Resize(
        micro_batch=candidate.micro_batch,
        limit_bytes=resize.reserve_bytes,
        device_limits=resize.limits,
        why=resize.sentence,
    )
    attempts.request_resize(db, attempt.id, wanted, at=now)


def _new_attempt(
    decision: Admit,
    footprints: Mapping[str, Traced],
    settings: Settings,
    devices: Devices,
    inventory: Inventory,
) -> NewAttempt:
    plan = decision.plan
    infos = sorted((inventory.info(device_id) for device_id in decision.device_ids), key=lambda info: info.number)
    launch = combine([with_nccl_room(devices.launch(info, plan.reserve_bytes), info, len(infos)) for info in infos])
    stored = plan_json(plan, launch, exclusive=decision.exclusive, processes=len(infos))
    return NewAttempt(
        host=settings.host,
        device=label(infos),
        plan=json.dumps(stored | {"predicted": _predicted(plan, footprints[target_of(infos[0]).name])}),
        micro_batch=plan.micro_batch,
        accumulation_steps=plan.accumulation_steps,
        reservations={info.id: plan.reserve_bytes for info in infos},
        device_limits=dict(decision.limits),
        predicted_allocated_bytes=plan.candidate.allocated_bytes,
        predicted_reserved_bytes=plan.candidate.reserved_bytes,
        predicted_process_bytes=plan.candidate.process_bytes,
    )


def plan_json(plan: Plan, launch: Launch, *, exclusive: bool, processes: int = 1) -> dict[str, Any]:
    """Write what `attempts.plan` holds: all that the worker needs to start the trainer."""
    return {
        "micro_batch": plan.micro_batch,
        "accumulation_steps": plan.accumulation_steps,
        **plan.modes.as_json(),
        "exclusive": exclusive,
        "processes": processes,
        "device_config": launch.device,
        "environment": launch.environment,
    }


def _predicted(plan: Plan, footprint: Traced) -> dict[int, Prediction]:
    """Return by micro-batch what the attempt would take with the same means: it may come to run with any of them."""
    candidates = () if isinstance(footprint, Untraced) else footprint.candidates
    return {
        one.micro_batch: Prediction(one.allocated_bytes, one.reserved_bytes, one.process_bytes)
        for one in candidates
        if one.modes == plan.modes
    }


def _refuse(db: Database, decision: Refuse, now: float) -> None:
    with db.transaction() as tx:
        if jobs.get(tx, decision.job_id).state is not JobState.QUEUED:
            return  # cancelled or held since the snapshot
        move(tx, decision.job_id, JobState.FAILED, at=now, reason=decision.reason, message=decision.sentence)
    log.info("job %d: refused: %s", decision.job_id, decision.sentence, extra={"job": decision.job_id})


def _log_admission(decision: Admit, attempt: Attempt) -> None:
    log.info(
        "job %d: attempt %d on %s, micro-batch %d x %d, %s reserved",
        attempt.job_id,
        attempt.number,
        attempt.device,
        attempt.micro_batch,
        attempt.accumulation_steps,
        format_bytes(decision.plan.reserve_bytes),
        extra={"job": attempt.job_id, "attempt": attempt.number},
    )
