"""Step 6 of the admission cycle: what was decided becomes rows and messages. The store checks each once more."""

import json
import logging
from collections.abc import Iterable
from typing import Any

from scheduler.admission.decisions import Admit, Decision, Refuse, Wait
from scheduler.admission.plan import Plan
from scheduler.config import Settings
from scheduler.controller.dispatch import Dispatch
from scheduler.controller.sight import Sight
from scheduler.devices.device import Devices, Launch
from scheduler.errors import MmqError
from scheduler.jobs.states import JobState, WaitCode
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from scheduler.store.records import Attempt, NewAttempt
from scheduler.store.transitions import IllegalTransition, move
from scheduler.units import format_bytes

log = logging.getLogger(__name__)


def apply(
    decisions: Iterable[Decision],
    *,
    db: Database,
    settings: Settings,
    devices: Devices,
    sight: Sight,
    dispatch: Dispatch,
    now: float,
) -> None:
    """Admit and publish, refuse, and write down why the rest waits."""
    waits: dict[int, tuple[str, str]] = {}
    for decision in decisions:
        try:
            match decision:
                case Admit():
                    new = _new_attempt(decision, settings, devices, sight)
                    attempt = attempts.admit(db, decision.job_id, new, at=now)
                    if attempt is not None:  # else cancelled or held since the snapshot: the next cycle sees it
                        _log_admission(decision, attempt)
                        dispatch.start(attempt)
                case Refuse():
                    _refuse(db, decision, now)
                case Wait():
                    waits[decision.job_id] = (decision.code.value, decision.sentence)
        except Exception as error:  # one job that we fail on must not stop the queue
            if isinstance(error, MmqError) and not isinstance(error, IllegalTransition):
                raise  # the store is away: nothing can be done for any job
            log.exception("job %d: what was decided can't be done", decision.job_id)
            waits[decision.job_id] = (WaitCode.ERROR.value, f"mmq itself failed on it: {type(error).__name__}: {error}")
    jobs.explain_waiting(db, waits)


def _new_attempt(decision: Admit, settings: Settings, devices: Devices, sight: Sight) -> NewAttempt:
    plan, info = decision.plan, sight.info(decision.device_ids[0])
    launch = devices.launch(info, plan.reserve_bytes)
    return NewAttempt(
        host=settings.host,
        device=info.label,
        plan=json.dumps(plan_json(plan, launch, exclusive=decision.exclusive)),
        micro_batch=plan.micro_batch,
        accumulation_steps=plan.accumulation_steps,
        reservations={info.id: plan.reserve_bytes},
        device_limits=dict(decision.limits),
        predicted_allocated_bytes=plan.candidate.allocated_bytes,
        predicted_reserved_bytes=plan.candidate.reserved_bytes,
        predicted_process_bytes=plan.candidate.process_bytes,
    )


def plan_json(plan: Plan, launch: Launch, *, exclusive: bool) -> dict[str, Any]:
    """Write what `attempts.plan` holds: all that the worker needs to start the trainer."""
    return {
        "micro_batch": plan.micro_batch,
        "accumulation_steps": plan.accumulation_steps,
        **plan.modes.as_json(),
        "exclusive": exclusive,
        "device_config": launch.device,
        "environment": launch.environment,
    }


def _refuse(db: Database, decision: Refuse, now: float) -> None:
    with db.transaction() as tx:
        if jobs.get(tx, decision.job_id).state is not JobState.QUEUED:
            return  # cancelled or held since the snapshot
        move(tx, decision.job_id, JobState.FAILED, at=now, reason=decision.reason, message=decision.sentence)
    log.info("job %d: refused: %s", decision.job_id, decision.sentence)


def _log_admission(decision: Admit, attempt: Attempt) -> None:
    log.info(
        "job %d: attempt %d on %s, micro-batch %d x %d, %s reserved",
        attempt.job_id,
        attempt.number,
        attempt.device,
        attempt.micro_batch,
        attempt.accumulation_steps,
        format_bytes(decision.plan.reserve_bytes),
    )
