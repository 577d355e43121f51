"""`docs/trainer.md` against real runs: example, config keys, exit codes, events with their fields, files."""

import json
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from scheduler.jobs.fields import field_types
from scheduler.jobs.spec import JobSpec
from tests.unit.pages import REPOSITORY, page, spans
from trainer.__main__ import main
from trainer.config import Config
from trainer.control import NAME
from trainer.errors import ExitCode
from trainer.memory.cpu import CpuDevice
from trainer.reporting.events import EventLog
from trainer.steps.step import Phase
from worker.environment import trainer_environment

PAGE = page("trainer.md")
EVERY_EVENT = {"at", "attempt", "event"}


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one and one and one"}\n' * 20)
    (tmp_path / "CONFIG.json").write_text(PAGE.blocks("json")[0])
    lines = [line for block in PAGE.blocks("console") for line in block.splitlines() if line.startswith("$ python ")]
    for line in lines:
        command = [sys.executable, *shlex.split(line)[2:]]
        environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert {path.name for path in (tmp_path / "RUN_DIR").iterdir()} == ours()
    assert {path.name for path in (tmp_path / "RUN_DIR/final").iterdir()} == in_final(hidden_size=64)
    (checkpoint,) = (tmp_path / "RUN_DIR/checkpoints").iterdir()
    line = next(line for line in drawing() if line.startswith("checkpoints/"))
    assert {path.name for path in checkpoint.iterdir()} == set(line.split(maxsplit=1)[1].split(", "))


def drawing() -> list[str]:
    return PAGE.sections["The run directory"].split("```")[1].splitlines()[1:]


def ours() -> set[str]:
    """The entries of a run directory that the trainer itself makes."""
    names = (line.split()[0].partition("/")[0] for line in drawing() if "(mmq" not in line and line[0] != " ")
    return set(names)


def in_final(*, hidden_size: int) -> set[str]:
    inside = [line for line in drawing() if line.startswith("  ")]
    return {line.split()[0].replace("768", str(hidden_size)) for line in inside}


def rows(heading: str) -> dict[str, str]:
    return {spans(row[0])[0]: row[1] for row in PAGE.table(heading)}


def test_every_key_of_a_config_is_there_with_its_default() -> None:
    documented = rows("CONFIG")
    expected: dict[str, Any] = {}
    for field in msgspec.structs.fields(Config):
        if field.name in ("model", "train"):
            expected[field.name] = None
        elif isinstance(field.type, type) and issubclass(field.type, Struct):
            expected |= {f"{field.name}.{inner.name}": inner.default for inner in msgspec.structs.fields(field.type)}
        else:
            expected[field.name] = field.default
    assert set(documented) == set(expected)
    for key, default in expected.items():
        told = spans(documented[key])
        if told:
            assert json.loads(told[0]) == (list(default) if isinstance(default, tuple) else default), key
        else:
            assert default is msgspec.NODEFAULT or key in ("model", "train")


def test_model_and_train_have_the_job_files_keys() -> None:
    sections = field_types(JobSpec)
    ours = {field.name: field.type for field in msgspec.structs.fields(Config)}
    assert set(field_types(sections["model"])) - {"preset"} == set(field_types(ours["model"]))
    assert set(field_types(sections["train"])) == set(field_types(ours["train"]))


def test_the_exit_codes_are_the_codes() -> None:
    assert {int(code): spans(name)[0] for code, name, _ in PAGE.table("Exit codes")} == {
        code.value: code.name for code in ExitCode
    }


def test_the_environment_is_the_workers(tmp_path: Path) -> None:
    told = trainer_environment(
        {}, planned={}, run_dir=tmp_path, job_id=1, attempt=1, micro_batch=1, accumulation_steps=1
    )
    documented = {span for row in PAGE.table("Environment") for span in spans(row[0])}
    assert documented == {name for name in told if name.startswith("MMQ_")}


def test_the_phases_are_the_steps() -> None:
    told = PAGE.sections["Events"].partition("The phase is")[2].partition(".")[0]
    between = {"evaluation", "sample", "save", "outside steps"}
    assert set(spans(told)) - between - {"new_accumulation_steps"} == set(Phase.__args__)  # type: ignore[attr-defined]


def test_every_event_has_the_fields_that_are_documented(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that halve, evaluate, are resized, find a checkpoint damaged, and fail: together they write every event."""
    monkeypatch.setattr("trainer.__main__.StopRequest.listen", lambda self: None)
    config = workshop.config(data={"validation": 0.2}, train={"max_steps": 4})
    unlimited = CpuDevice(None)
    workshop.train("unlimited", config, unlimited)
    halved = workshop.train("run", config, CpuDevice(int(unlimited.peaks().process_bytes * 0.9)))
    for path in halved.run_dir.glob("final/*"):
        path.unlink()
    (halved.run_dir / "final").rmdir()
    (halved.run_dir / "checkpoints/step-4/state.json").write_text("{}")
    (halved.run_dir / NAME).write_text("no request")
    workshop.train("run", config)
    for path in (*halved.run_dir.glob("final/*"), *halved.run_dir.glob("checkpoints/step-4/*")):
        path.unlink()
    (halved.run_dir / "final").rmdir()
    (halved.run_dir / NAME).write_text('{"number": 1, "micro_batch": 2}')
    workshop.train("run", config)
    (workshop.root / "wrong.json").write_text("{}")
    assert main([str(workshop.root / "wrong.json"), str(halved.run_dir)]) == ExitCode.BAD_CONFIGURATION

    events = EventLog(halved.run_dir / "events.jsonl")
    events.limit_bytes = (halved.run_dir / "events.jsonl").stat().st_size
    events.write("control_refused", message="no request")
    found: dict[str, set[str]] = defaultdict(set)
    for event in halved.events():
        found[event["event"]] |= set(event) - EVERY_EVENT
    assert {event: set(spans(fields)) for event, fields in rows("Events").items()} == found
