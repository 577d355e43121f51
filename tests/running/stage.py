"""A whole home for one test: a real store, real shims, and a stand-in trainer that follows a script."""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from scheduler.config import Settings
from scheduler.jobs import presets
from scheduler.jobs import spec as specs
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.interpreter import python_command, with_source
from scheduler.processes.locks import holders
from scheduler.store import attempts, devices, jobs
from scheduler.store.opening import open_database
from scheduler.store.records import Attempt, Job, NewAttempt, NewJob
from tests.processes import kill, until
from worker.rundir import RunDir

STANDIN = Path(__file__).parent / "standin"
GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Gadget:
    id: str = "virtual-0@here"
    kind: str = "virtual"
    number: int = 0
    name: str = "virtual"
    total_bytes: int = 8 * GIB
    capability: str | None = None


class Stage:
    """Jobs are submitted and admitted here as the controller would; the rest is the real thing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.grace_seconds = 20
        self.db = open_database(settings, lean=True)
        devices.upsert(self.db, [Gadget()], settings.host)

    @property
    def environment(self) -> dict[str, str]:
        """For whatever the test starts: this home, the stand-in trainer, and a secret or two."""
        own = {
            "MMQ_HOME": str(self.settings.home),
            "MMQ_HOST": self.settings.host,
            "PYTHONPATH": str(STANDIN),
            "SOME_TOKEN": "secret",
            "MMQ_GRACE_SECONDS": str(self.grace_seconds),
        }
        return with_source({**os.environ, **own})

    def submit(self, scenario: Mapping[str, Any], **resources: Any) -> Job:
        job = self._submit(resources)
        root = self.settings.run_dir(job.id)
        root.mkdir(parents=True)
        (root / "scenario.json").write_text(json.dumps({"steps": 2, **scenario}))
        return job

    def _submit(self, resources: Mapping[str, Any]) -> Job:
        new = NewJob(
            name="job",
            kind="sft",
            user_name="me",
            spec=json.dumps(a_spec(resources)),
            source="kind: sft\n",
            source_path="/nowhere/job.yaml",
            code_version="0",
            effective_batch=8,
        )
        return jobs.submit(self.db, new, at=time.time())

    def admit(self, job: Job) -> Attempt:
        plan = {
            "micro_batch": 4,
            "accumulation_steps": 2,
            "activation_checkpointing": False,
            "optimizer_offload": False,
            "chunked_loss": True,
            "device_config": {"kind": "cpu", "limit_bytes": None},
            "environment": {"CUDA_VISIBLE_DEVICES": "GPU-1"},
        }
        new = NewAttempt(
            host=self.settings.host,
            device="virtual:0",
            plan=json.dumps(plan),
            micro_batch=4,
            accumulation_steps=2,
            reservations={"virtual-0@here": 1 * GIB},
            device_limits={"virtual-0@here": 8 * GIB},
        )
        attempt = attempts.admit(self.db, job.id, new, at=time.time())
        assert attempt is not None
        return attempt

    def admitted_elsewhere(self) -> Attempt:
        """An attempt of a new job whose run directory nobody has made, or another's is there."""
        return self.admit(self._submit({}))

    def admitted(self, scenario: Mapping[str, Any], **resources: Any) -> Attempt:
        return self.admit(self.submit(scenario, **resources))

    def claimed(self, scenario: Mapping[str, Any], **resources: Any) -> Attempt:
        attempt = attempts.claim(self.db, self.admitted(scenario, **resources).id, at=time.time())
        assert attempt is not None
        return attempt

    def shim(self, attempt: Attempt, *flags: str) -> int:
        """Run the first half of a shim; the second is on its own then."""
        command = python_command("worker.shim", str(attempt.id), *flags)
        (self.settings.home / "shims.log").touch()
        with (self.settings.home / "shims.log").open("ab") as diary:
            return subprocess.run(command, env=self.environment, stderr=diary, check=False, timeout=60).returncode

    def running(self, scenario: Mapping[str, Any], **resources: Any) -> Attempt:
        """An attempt with a living trainer that has said something."""
        attempt = self.claimed(scenario, **resources)
        assert self.shim(attempt) == 0
        events = self.run(attempt).events
        until(lambda: events.exists() and '"step"' in events.read_text())
        until(lambda: self.attempt(attempt).state is AttemptState.RUNNING)
        return self.attempt(attempt)

    def let_go(self, attempt: Attempt) -> None:
        """Have a trainer that lingers make its last step."""
        (self.run(attempt).root / "go").touch()

    def attempt(self, attempt: Attempt) -> Attempt:
        return attempts.get(self.db, attempt.id)

    def ended(self, attempt: Attempt) -> Attempt:
        return until(lambda: ((a := self.attempt(attempt)).state is AttemptState.ENDED and a) or None)

    def end(self, attempt: Attempt) -> tuple[EndReason | None, JobState]:
        """Wait for the attempt's end: why, and where its job is then. Nothing of it may be left."""
        ended = self.ended(attempt)
        assert self.db.query("SELECT * FROM reservations WHERE attempt_id = :a", a=attempt.id) == []
        run = self.run(attempt)
        until(lambda: holders(run.trainer_lock) == [] and holders(run.shim_lock) == [])
        return ended.reason, jobs.get(self.db, attempt.job_id).state

    def run(self, attempt: Attempt) -> RunDir:
        return RunDir(root=self.settings.run_dir(attempt.job_id), number=attempt.number)

    def kinds(self, attempt: Attempt) -> list[str]:
        rows = self.db.query("SELECT kind FROM events WHERE attempt_id = :a ORDER BY id", a=attempt.id)
        return [row["kind"] for row in rows if row["kind"] != "state"]

    def reopen(self) -> None:
        self.db = open_database(self.settings, lean=True)

    def close(self) -> None:
        """Leave no process behind."""
        for job_dir in self.settings.jobs_dir.glob("*"):
            for pid in {*holders(job_dir / "shim.lock"), *holders(job_dir / "lock")}:
                kill(pid)
        self.db.close()


def a_spec(resources: Mapping[str, Any]) -> dict[str, Any]:
    written = {
        "kind": "sft",
        "name": "job",
        "model": presets.fill_model({"hidden_size": 64}),
        "init_from": None,
        "data": {"path": "/nowhere/sft.jsonl", "tokenizer": None, "max_seq_len": 64, "validation": 0},
        "train": presets.fill_train("sft", {"batch_size": 8, "max_steps": 2}),
        **presets.SECTIONS,
        "resources": presets.SECTIONS["resources"] | resources,
        "priority": 0,
    }
    return json.loads(specs.encode(msgspec.convert(written, specs.JobSpec)))
