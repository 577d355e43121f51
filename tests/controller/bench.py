"""A controller on real SQLite and virtual devices, with a scripted tracer, and a publisher that writes down."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scheduler.config import Settings
from scheduler.controller.service import Controller, Identity
from scheduler.devices.choice import open_devices
from scheduler.devices.device import Devices
from scheduler.errors import Unreachable
from scheduler.footprint.context import context_bytes
from scheduler.footprint.tracer import Answer
from scheduler.jobs.jobfile import load
from scheduler.jobs.spec import JobSpec, encode
from scheduler.processes.liveness import process_started
from scheduler.store import jobs
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from scheduler.store.records import Job, NewJob

MIB = 1024**2
JOB_FILE = """
kind: pretrain
name: tiny
model: {hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}
data: {path: rows.jsonl, max_seq_len: 512}
train: {max_steps: 3, batch_size: 8, accumulation_steps: 1}
"""


def settings_at(home: Path, devices: str = "virtual:1x1GiB") -> Settings:
    return Settings(
        home=home,
        database_url=f"sqlite:///{home / 'mmq.db'}",
        broker_url=None,
        devices=devices,
        user="ada",
        host="here",
    )


def spec_of(folder: Path, overrides: tuple[str, ...] = ()) -> JobSpec:
    (folder / "rows.jsonl").write_text('{"text": "one two three"}\n')
    (folder / "job.yaml").write_text(JOB_FILE)
    spec, _ = load(folder / "job.yaml", overrides)
    return spec


ROWS_KEPT = {"off": 4, "selective": 3, "full": 2}  # quarters


def answer_of(request: dict[str, Any], *, base_mib: int, row_mib: int) -> str:
    """A footprint of `base_mib` and `row_mib` a row; full checkpointing halves the rows, offload the base.

    A quarter of the base are weights, which ZeRO-3 divides among processes, as ZeRO-2 does the rest. The context is
    in these figures, and so not in the answer, to which it is added.
    """
    outside = context_bytes(request["target"]["kind"], request["target"].get("capability"))
    candidates, processes = [], request["target"].get("processes", 1)
    divided = {"none": 1.0, "zero2": (1 + 3 / processes) / 4, "zero3": 1 / processes}
    for modes in request["modes"]:
        for size in request["micro_batches"]:
            base = int(base_mib * MIB * divided[modes["sharding"]]) // (2 if modes["optimizer_offload"] else 1)
            rows = size * row_mib * MIB
            peak = base + rows * ROWS_KEPT[modes["activation_checkpointing"]] // 4
            candidates.append(
                {"micro_batch": size, **modes, "parts": {"weights": base}}
                | dict.fromkeys(("allocated_bytes", "reserved_bytes"), peak)
                | {"process_bytes": peak - outside}
            )
    return json.dumps({"torch": "2", "seconds": 0.1, "parameters": 7, "candidates": candidates})


class ScriptedTracer:
    """Answers at the next `collect`, at a price per job that the test sets."""

    def __init__(self) -> None:
        self.base_mib, self.row_mib = 100, 10
        self.error: Answer | None = None
        self.asked: list[dict[str, Any]] = []
        self._answers: dict[str, Answer] = {}

    def ask(self, key: str, request: Any) -> None:
        self.asked.append(request)
        body = answer_of(request, base_mib=self.base_mib, row_mib=self.row_mib)
        error = self.error
        self._answers[key] = Answer(
            key=key,
            body=None if error else body,
            error=error.error if error else None,
            hopeless=error.hopeless if error else False,
            timed_out=error.timed_out if error else False,
        )

    def collect(self) -> list[Answer]:
        answers, self._answers = list(self._answers.values()), {}
        return answers


class WritesDown:
    """A publisher; while `away`, the broker does not answer."""

    def __init__(self) -> None:
        self.away = False
        self.started: list[int] = []
        self.adopted: list[int] = []

    def start(self, job_id: int, attempt_id: int) -> None:
        self._refuse()
        self.started.append(attempt_id)

    def adopt(self, job_id: int, attempt_id: int) -> None:
        self._refuse()
        self.adopted.append(attempt_id)

    def _refuse(self) -> None:
        if self.away:
            raise Unreachable("the broker at valkey.sock does not answer")


class Bench:
    """A controller and everything around it that a test wants to touch."""

    def __init__(self, home: Path, devices: str = "virtual:1x1GiB", seen: Devices | None = None) -> None:
        self.home = home
        self.settings = settings_at(home, devices)
        self.db: Database = open_database(self.settings, lean=False, create=True)
        self.devices = seen or open_devices(devices, self.settings)
        self.tracer, self.publisher = ScriptedTracer(), WritesDown()
        self.controller = self.new_controller()
        self.controller.reconcile()

    def new_controller(self, monotonic: Callable[[], float] = time.monotonic) -> Controller:
        """As after a restart: the same store, an empty memory."""
        pid = os.getpid()
        return Controller(
            db=self.db,
            settings=self.settings,
            devices=self.devices,
            tracer=self.tracer,
            publisher=self.publisher,
            identity=Identity(pid=pid, pid_started=process_started(pid) or 0),
            monotonic=monotonic,
        )

    def submit(self, *overrides: str, **changes: Any) -> int:
        spec = spec_of(self.home, overrides)
        fields: dict[str, Any] = {
            "name": spec.name,
            "kind": spec.kind,
            "user_name": "ada",
            "spec": encode(spec),
            "source": JOB_FILE,
            "source_path": "job.yaml",
            "code_version": "1",
            "effective_batch": spec.effective_batch,
            "priority": spec.priority,
            "gpus": spec.resources.gpus,
        }
        return jobs.submit(self.db, NewJob(**(fields | changes)), at=time.time()).id

    @property
    def ledger(self) -> Path:
        """That of the first device."""
        return self.settings.ledger_dir / "virtual-0"

    def job(self, job_id: int) -> Job:
        return jobs.get(self.db, job_id)

    def cycles(self, count: int = 2) -> None:
        """A trace asked for in one cycle is there in the next."""
        for _ in range(count):
            self.controller.cycle()

    def close(self) -> None:
        self.db.close()
