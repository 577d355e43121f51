"""The life of a run: evaluations, the best checkpoint, samples, early stop, the time limit, the first weights."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from trainer.__main__ import main
from trainer.config import parse_config
from trainer.data.batches import Row
from trainer.errors import BadConfiguration, ExitCode, NonFiniteLoss, TimeLimitReached
from trainer.loop import Training
from trainer.memory.cpu import CpuDevice
from trainer.model.minimind import MiniMind
from trainer.reporting.flops import peak_flops, training_flops
from trainer.reporting.pace import Pace
from trainer.schedule import Schedule
from trainer.stopping import Validation, used_seconds

VALIDATED = {"data": {"validation": 0.2}}


def test_evaluations_and_samples_come_at_their_intervals_and_the_best_is_saved(workshop) -> None:
    intervals = {"max_steps": 10, "save_interval": 100, "eval_interval": 4, "sample_interval": 5}
    run = workshop.train("run", workshop.config(train=intervals, **VALIDATED))
    evaluations = run.events("evaluation")
    assert [event["step"] for event in evaluations] == [4, 8, 10]
    assert [event["step"] for event in run.events("sample")] == [5, 10]
    losses = [event["loss"] for event in evaluations]
    best_so_far = [
        event["step"] for index, event in enumerate(evaluations) if losses[index] == min(losses[: index + 1])
    ]
    assert [event["step"] for event in run.events("checkpoint")] == sorted({*best_so_far, 10})
    best = evaluations[losses.index(min(losses))]["step"]
    assert run.events("finished")[0]["best_step"] == best
    assert (run.run_dir / f"checkpoints/step-{best}").is_dir()


def test_samples_in_the_middle_change_nothing_in_the_losses(workshop) -> None:
    plain = workshop.train("plain", workshop.config())
    watched = workshop.train("watched", workshop.config(train={"sample_interval": 1}, sample={"temperature": 1.0}))
    assert watched.losses() == plain.losses()


def test_a_loss_that_gets_no_better_stops_the_run_with_the_best_weights(workshop) -> None:
    train = {"max_steps": 40, "save_interval": 2, "early_stop": 2, "learning_rate": 0.3, "grad_clip": 0.0}
    config = workshop.config(train=train, **VALIDATED)
    run = workshop.train("run", config)
    finished = run.events("finished")[0]
    evaluations = {event["step"]: event["loss"] for event in run.events("evaluation")}
    best = min(evaluations, key=lambda step: evaluations[step])
    assert finished["stopped_early"] is True
    assert finished["step"] == max(evaluations) == best + 4 < 40
    assert finished["best_step"] == best
    kept = load_file(run.run_dir / f"checkpoints/step-{best}/model.safetensors")
    final = load_file(run.run_dir / "final/model.safetensors")
    assert all(final[name].equal(tensor) for name, tensor in kept.items())

    # Resumed in the middle of its patience, it ends at the same step.
    shutil.rmtree(run.run_dir / "final")
    shutil.rmtree(run.run_dir / f"checkpoints/step-{finished['step']}")
    again = workshop.train("run", config)
    assert again.events("finished")[-1]["step"] == finished["step"]


def test_early_stop_needs_a_validation_loss(workshop) -> None:
    with pytest.raises(BadConfiguration, match=r"train\.early_stop: needs a validation loss"):
        parse_config(workshop.config(train={"early_stop": 1}))


def test_a_time_limit_saves_first(workshop, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trainer.__main__.StopRequest.listen", lambda self: None)
    config = workshop.root / "limited.json"
    train = {"max_steps": 100_000, "save_interval": 100_000}
    config.write_text(json.dumps(workshop.config(train=train, time_limit_seconds=2.0)))
    assert main([str(config), str(workshop.root / "limited")]) == ExitCode.TIME_LIMIT
    assert "ran into its time limit of 2 s" in capsys.readouterr().err
    run = workshop.outcome("limited")
    assert run.events()[-1]["reason"] == "time_limit"
    last = run.events("step")[-1]
    assert last["elapsed_seconds"] < 20  # not at the 100,000th step; a busy machine may hold one up
    assert [event["step"] for event in run.events("checkpoint")] == [last["step"]]


def test_time_used_by_earlier_attempts_counts_until_the_limit_was_told(workshop) -> None:
    run_dir = workshop.root / "run"
    config = workshop.config(time_limit_seconds=3600)
    workshop.train("run", config)
    used = workshop.outcome("run").events("finished")[0]["elapsed_seconds"]
    assert used_seconds(run_dir / "events.jsonl") == used > 0
    shutil.rmtree(run_dir / "final")
    shutil.rmtree(run_dir / "checkpoints/step-8")
    with (run_dir / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "step", "elapsed_seconds": 3600.5}) + "\n")
    with pytest.raises(TimeLimitReached, match="nothing was done in this attempt"):
        workshop.train("run", config)
    with (run_dir / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "failed", "reason": "time_limit"}) + "\n")
    assert used_seconds(run_dir / "events.jsonl") == 0
    workshop.train("run", config)


def test_weights_that_are_lost_are_not_saved(workshop, monkeypatch) -> None:
    saved = Training._save

    def spoilt(self: Training) -> None:
        if self._run.state.step == 6:
            next(self._run.model.parameters()).data[0, 0] = float("nan")
        saved(self)

    monkeypatch.setattr(Training, "_save", spoilt)
    with pytest.raises(NonFiniteLoss, match="step 6: the weights are no longer finite"):
        workshop.train("spoilt", workshop.config())
    assert [event["step"] for event in workshop.outcome("spoilt").events("checkpoint")] == [3]


def test_a_validation_loss_that_is_no_number_ends_the_run() -> None:
    validation = Validation()
    assert validation.note(2.0, 1)
    with pytest.raises(NonFiniteLoss, match="step 2: the validation loss is nan"):
        validation.note(float("nan"), 2)
    assert (validation.best_step, validation.best_loss) == (1, 2.0)


def test_the_log_names_the_first_weights(workshop, capsys) -> None:
    first = workshop.train("first", workshop.config())
    capsys.readouterr()
    run = workshop.train("second", workshop.config("sft", init_from=str(first.run_dir)))
    assert f"from the beginning, with {first.run_dir}" in capsys.readouterr().out
    assert run.events("started")[0]["init_from"] == str(first.run_dir)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_help(option, capsys) -> None:
    assert main([option]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: python -m trainer CONFIG.json RUN_DIR")
    assert '{"kind": "pretrain", "data": {"path": "rows.jsonl"}}' in out
    assert all(str(code.value) in out for code in ExitCode)
    assert err == ""


def test_what_is_left_is_counted() -> None:
    schedule = Schedule(total_steps=10, log_interval=3, save_interval=4, eval_interval=5, sample_interval=None)
    due = [step for step in range(1, 11) if schedule.saves(step)]
    assert due == [4, 8, 10]
    for step in range(11):
        left = schedule.left(step)
        assert left["save"] == len([one for one in due if one > step])
        assert left["evaluation"] == len([one for one in (5, 10) if one > step])
        assert left["sample"] == (step < 10)


def test_the_time_left_has_evaluations_and_saves_in_it_and_the_speed_has_not() -> None:
    now = 0.0
    pace = Pace(clock=lambda: now)
    now = 5.0  # the first step, which is slow
    pace.step_done(100)
    assert pace.report().tokens_per_second == 20
    assert pace.left_seconds(2, {}) == 10
    now += 2.0
    pace.step_done(100, flops=50.0)
    with pace.aside("save"):
        now += 30.0
    speed = pace.report()
    assert (speed.tokens_per_second, speed.flops_per_second) == (50, 25)
    assert pace.left_seconds(2, {"save": 3, "evaluation": 7}) == 2 * 2 + 3 * 30


def test_the_arithmetic_counted_is_that_of_the_model(workshop) -> None:
    """By hand: 2 rows, 6 for each weight a token meets, causal attention, the head at targets."""
    config = parse_config(workshop.config())
    model = MiniMind(config, CpuDevice(None).torch_device)
    matrices = sum(p.numel() for name, p in model.named_parameters() if "layers" in name and p.dim() == 2)
    rows = [Row(tokens=np.arange(n), is_target=np.arange(n) > 0) for n in (5, 9)]
    head = 512 * 32
    attention = 2 * 3 * 4 * 32 * (4 * 5 // 2 + 8 * 9 // 2)  # layers, thrice, multiply-adds of two products, width
    assert training_flops(config.model, rows) == 6 * (matrices * 12 + head * 12) + attention


def test_peaks_are_of_the_devices_own_name() -> None:
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_flops("NVIDIA GeForce RTX 4090", "float32") == 82.6e12
    assert peak_flops("NVIDIA GeForce RTX 4090 D", "float32") is None
    assert peak_flops("NVIDIA L40", "float32") is None
    assert peak_flops("some other card", "bfloat16") is None


def test_a_loader_that_waits_keeps_the_device_idle_and_changes_nothing_else(workshop) -> None:
    steps, rows = 4, 8
    config = workshop.config(train={"max_steps": steps, "log_interval": 1})
    quick = workshop.train("quick", config)
    slow = workshop.train("slow", config | {"data": config["data"] | {"row_wait_seconds": 0.02}})
    assert slow.losses() == quick.losses()
    at = [event["at"] for event in slow.events("step")]
    assert at[-1] - at[0] >= 0.02 * rows * (steps - 1) * 0.9
    assert slow.events("step")[-1]["busy_share"] < quick.events("step")[-1]["busy_share"]
