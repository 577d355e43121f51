"""Jobs, attempts and devices to test the store with."""

import json
from pathlib import Path
from typing import Any

from scheduler.config import Settings
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, devices, jobs
from scheduler.store.database import Database
from scheduler.store.records import Attempt, Device, Job, NewAttempt, NewJob, Outcome

GIB = 1 << 30
DEVICE = "virtual-0@here"
SPEC = {
    "retries": {"out_of_memory": 2, "crash": 1},
    "memory": {"activation_checkpointing": "off", "optimizer_offload": "off"},
}


def settings_at(home: Path, database_url: str | None = None) -> Settings:
    return Settings(
        home=home,
        database_url=database_url or f"sqlite:///{home / 'mmq.db'}",
        broker_url=None,
        devices="virtual:1x20GiB",
        user="ada",
        host="here",
    )


def new_job(**changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "name": "tiny",
        "kind": "sft",
        "user_name": "ada",
        "spec": json.dumps(SPEC),
        "source": "kind: sft\n",
        "source_path": "/jobs/tiny.yaml",
        "code_version": "1",
        "effective_batch": 16,
    }
    return NewJob(**(fields | changes))


def new_attempt(**changes: Any) -> NewAttempt:
    fields: dict[str, Any] = {
        "host": "here",
        "device": "virtual:0",
        "plan": json.dumps({"activation_checkpointing": False, "optimizer_offload": False}),
        "micro_batch": 8,
        "accumulation_steps": 2,
        "reservations": {DEVICE: 4 * GIB},
        "device_limits": {DEVICE: 20 * GIB},
    }
    return NewAttempt(**(fields | changes))


def a_device(device_id: str = DEVICE, number: int = 0) -> Device:
    return Device(
        id=device_id,
        host="here",
        kind="virtual",
        number=number,
        name="virtual 20 GiB",
        total_bytes=20 * GIB,
        capability=None,
        present=1,
    )


def with_device(db: Database) -> None:
    devices.upsert(db, [a_device()], "here")


def queued(db: Database, **changes: Any) -> Job:
    return jobs.submit(db, new_job(**changes), at=1.0)


def admitted(db: Database, job: Job, **changes: Any) -> Attempt:
    attempt = attempts.admit(db, job.id, new_attempt(**changes), at=2.0)
    assert attempt is not None
    return attempt


def running(db: Database, job: Job, **changes: Any) -> Attempt:
    attempt = admitted(db, job, **changes)
    assert attempts.claim(db, attempt.id, at=3.0) is not None
    start(db, attempt.id)
    return attempts.get(db, attempt.id)


def start(db: Database, attempt_id: int, at: float = 4.0) -> None:
    attempts.started(db, attempt_id, pid=100, pid_started=7, shim_pid=99, shim_started=6, boot_id="boot", at=at)


def ends(reason: EndReason, **changes: Any) -> Outcome:
    return Outcome(reason=reason, **changes)
