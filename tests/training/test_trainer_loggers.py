"""Numbers that go elsewhere: TensorBoard's own reader finds them; what is missing or fails is told."""

import json
from collections.abc import Mapping

import pytest

from scheduler.errors import FileError
from scheduler.jobs import jobfile
from trainer.__main__ import main
from trainer.errors import BadConfiguration, ExitCode
from trainer.reporting.loggers import Loggers


def test_tensorboard_reads_what_was_told(workshop) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = workshop.train("run", workshop.config(report=["tensorboard"], data={"validation": 0.2}))
    (file,) = (run.run_dir / "tensorboard").iterdir()
    found: dict[str, dict[int, float]] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    assert found["train/loss"] == pytest.approx(run.losses())
    evaluations = {event["step"]: event["loss"] for event in run.events("evaluation")}
    assert found["validation/loss"] == pytest.approx(evaluations)
    assert "train/model_flops_utilisation" not in found  # of a CPU it is not known


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_service_takes_what_was_told_without_being_asked(workshop, monkeypatch, name) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv(f"{name.upper()}_MODE", "offline")
    run = workshop.train("run", workshop.config(report=[name]))
    assert (run.run_dir / name).is_dir()
    assert len((run.run_dir / "report-id").read_text()) == 21


def test_no_logger_is_loaded_unless_named(workshop) -> None:
    run = workshop.train("run", workshop.config())
    assert not {"tensorboard", "report-id"} & {path.name for path in run.run_dir.iterdir()}


def test_one_that_is_missing_is_refused_at_start_and_at_submit(workshop, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trainer.__main__.StopRequest.listen", lambda self: None)
    monkeypatch.setattr("trainer.reporting.loggers.find_spec", lambda name: None)
    config = workshop.root / "config.json"
    config.write_text(json.dumps(workshop.config(report=["swanlab"])))
    assert main([str(config), str(workshop.root / "run")]) == ExitCode.BAD_CONFIGURATION
    assert "report: swanlab is not installed\nhint: pip install swanlab" in capsys.readouterr().err

    monkeypatch.setattr("scheduler.jobs.checks.find_spec", lambda name: None)
    job = workshop.root / "job.yaml"
    job.write_text(f"kind: pretrain\ndata: {{path: {workshop.pretrain.name}}}\nreport: [wandb]\n")
    with pytest.raises(FileError, match=r"job\.yaml:3: report: wandb is not installed"):
        jobfile.load(job)


def test_one_that_will_not_start_is_a_refusal(workshop, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no login\nand more")

    monkeypatch.setattr("trainer.reporting.loggers.tensorboard.open_logger", refuse)
    with pytest.raises(BadConfiguration, match=r"report: tensorboard could not be started: no login$"):
        workshop.train("run", workshop.config(report=["tensorboard"]))


def test_one_that_fails_is_left_alone_and_the_others_go_on(capsys) -> None:
    class Kept:
        def __init__(self, *, fails: bool) -> None:
            self.fails = fails
            self.told: list[int] = []
            self.closed = False

        def log(self, step: int, values: Mapping[str, float]) -> None:
            if self.fails and step == 2:
                raise ConnectionError("gone")
            self.told.append(step)

        def close(self) -> None:
            self.closed = True

    bad, good = Kept(fails=True), Kept(fails=False)
    loggers = Loggers({"bad": bad, "good": good})
    for step in (1, 2, 3):
        loggers.log(step, {"loss": 1.0, "unknown": None})
    loggers.close()
    assert (bad.told, good.told, good.closed) == ([1], [1, 2, 3], True)
    assert capsys.readouterr().out == "bad fails and gets no more numbers: ConnectionError: gone\n"


def test_a_job_that_names_loggers_is_still_a_value() -> None:
    """Jobs are kept by their specification: it has to have a hash."""
    job, _ = jobfile.parse("kind: sft\ndata: {path: x}\nreport: wandb\n", file="x")
    assert job.report == ("wandb",)
    assert hash(job) == hash(jobfile.parse("kind: sft\ndata: {path: x}\nreport: [wandb]\n", file="x")[0])
