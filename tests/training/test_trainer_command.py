"""`python -m trainer CONFIG RUN_DIR` as a person types it."""

import signal

import pytest

from trainer.__main__ import main
from trainer.errors import ExitCode
from trainer.files.checkpoint import load_newest


def test_a_run_tells_its_story(workshop) -> None:
    config = workshop.config(train={"max_steps": 25, "log_interval": 10, "save_interval": 20}, attempt=3)
    run = workshop.start("story", config)
    code, output = run.wait()
    assert code == ExitCode.DONE, output
    kinds = [event["event"] for event in run.events() if event["event"] != "memory"]
    assert kinds == [
        "data",
        "started",
        "step",
        "step",
        "step",
        "checkpoint",
        "step",
        "checkpoint",
        "sample",
        "finished",
    ]
    assert [event["step"] for event in run.events("step")] == [1, 10, 20, 25]
    assert {event["attempt"] for event in run.events()} == {3}
    first, last = run.events("step")[0], run.events("step")[-1]
    assert last["loss"] < first["loss"]
    assert last["learning_rate"] == pytest.approx(1e-3)  # a tenth of 1e-2
    assert last["eta_seconds"] == 0
    assert first["eta_seconds"] > 0
    assert last["allocated_peak_bytes"] > 0
    finished = run.events("finished")[0]
    assert (finished["first_loss"], finished["loss"]) == (first["loss"], last["loss"])

    again = workshop.start("story", config)
    assert again.wait()[0] == ExitCode.DONE
    assert len(again.events("finished")) == 1


def test_only_kind_and_data_are_needed(workshop) -> None:
    config = {"kind": "pretrain", "data": {"path": str(workshop.pretrain)}}
    run = workshop.start("defaults", config)
    run.until(lambda run: bool(run.events("started")))
    run.signal(signal.SIGKILL)  # nobody waits for a step of 64 million parameters
    run.wait()
    (started,) = run.events("started")
    assert started["parameters"] == 63_912_192
    assert (started["micro_batch"], started["effective_batch"], started["total_steps"]) == (32, 256, 1)


def test_a_run_directory_that_cannot_be_is_said(workshop, capsys, monkeypatch) -> None:
    monkeypatch.setattr("trainer.__main__.StopRequest.listen", lambda self: None)
    assert main([str(workshop.root / "c.json"), str(workshop.pretrain / "run")]) == ExitCode.BAD_CONFIGURATION
    assert "Not a directory" in capsys.readouterr().err
    assert main([]) == ExitCode.BAD_CONFIGURATION
    assert "usage: python -m trainer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"train": {"learning_rat": 1}}, ExitCode.BAD_CONFIGURATION, "learning_rat"),
        ({"train": {"batch_size": 0}}, ExitCode.BAD_CONFIGURATION, "$.train.batch_size"),
        ({"model": {"num_experts_per_tok": 5}}, ExitCode.BAD_CONFIGURATION, "model.num_experts_per_tok"),
        ({"model": {"num_key_value_heads": 3}}, ExitCode.BAD_CONFIGURATION, "num_attention_heads"),
        ({"init_from": "/nowhere.pth"}, ExitCode.BAD_CONFIGURATION, "tokenizer"),
        ({"data": {"path": "/nowhere.jsonl"}}, ExitCode.BAD_DATA, "/nowhere.jsonl: no such file"),
        ({"train": {"learning_rate": 1e30}}, ExitCode.NON_FINITE_LOSS, "hint: lower train.learning_rate"),
    ],
)
def test_what_a_person_did_wrong_is_said_without_a_traceback(workshop, change, code, said) -> None:
    run = workshop.start("wrong", workshop.config(**change))
    found, output = run.wait()
    assert found == code, output
    assert said in output
    assert "Traceback" not in output
    assert run.events()[-1]["event"] == "failed"
    assert run.events()[-1]["exit_code"] == code


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(workshop) -> None:
    train = {"learning_rate": 1e10, "save_interval": 1, "log_interval": 1000}  # one step is survived
    run = workshop.start("diverged", workshop.config(train=train))
    assert run.wait()[0] == ExitCode.NON_FINITE_LOSS
    assert not (run.run_dir / "final").exists()
    newest, damage = load_newest(run.run_dir / "checkpoints")
    assert newest is not None
    assert damage == []
    assert newest.state.step == 1
    assert all(tensor.norm().isfinite() for tensor in newest.model.values())
