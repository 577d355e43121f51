"""Killed, stopped or damaged: the run goes on, bit for bit."""

import shutil
import signal

import pytest
from safetensors.torch import load_file

from trainer.checkpoint import load_newest
from trainer.errors import BadConfiguration, BadData, ExitCode, Stopped
from trainer.stopping import StopRequest

LONG = {"max_steps": 60, "save_interval": 7}


def test_killed_and_resumed_is_the_undisturbed_run_bit_for_bit(workshop) -> None:
    undisturbed = workshop.start("undisturbed", workshop.config(train=LONG))
    killed = workshop.start("killed", workshop.config(train=LONG))
    killed.until(lambda run: len(run.events("step")) >= 17)
    killed.signal(signal.SIGKILL)
    assert killed.wait()[0] == -signal.SIGKILL
    resumed = workshop.start("killed", workshop.config(train=LONG, attempt=2))
    assert resumed.wait()[0] == ExitCode.DONE
    assert undisturbed.wait()[0] == ExitCode.DONE

    start = resumed.events("started")[-1]
    assert start["attempt"] == 2
    assert start["resumed_from"] is not None
    assert start["step"] >= 14
    assert resumed.losses() == undisturbed.losses()
    for tensor, other in zip(
        *(load_file(run.run_dir / "final/model.safetensors").values() for run in (resumed, undisturbed)), strict=True
    ):
        assert tensor.equal(other)


def test_term_finishes_the_step_saves_and_exits_75(workshop) -> None:
    config = workshop.config(train=LONG | {"max_steps": 10_000, "save_interval": 100_000})
    run = workshop.start("stopped", config)
    run.until(lambda run: len(run.events("step")) >= 3)
    run.signal(signal.SIGHUP)  # a closed terminal is no reason to stop
    seen = len(run.events("step"))
    run.until(lambda run: len(run.events("step")) > seen)
    run.signal(signal.SIGTERM)
    code, output = run.wait()
    assert code == ExitCode.STOPPED, output
    last = run.events("step")[-1]["step"]
    assert run.events("checkpoint")[-1]["step"] == last
    assert run.events()[-1]["event"] == "failed"
    assert run.events()[-1]["exit_code"] == 75
    assert "Traceback" not in output


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(workshop, file, damage) -> None:
    class StopAtOnce(StopRequest):
        def check(self) -> None:
            pass

    expected = workshop.train("whole", workshop.config())
    shutil.rmtree(expected.run_dir / "final")
    path = expected.run_dir / "checkpoints" / "step-8" / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    before = expected.losses()
    again = workshop.train("whole", workshop.config())
    assert [event["message"].split(":")[0] for event in again.events("checkpoint_damaged")] == [str(path.parent)]
    assert again.events("started")[-1]["step"] == 6
    assert again.losses() == before
    found, damaged = load_newest(expected.run_dir / "checkpoints")
    assert found is not None
    assert (found.state.step, damaged) == (8, [])


def test_the_newest_two_checkpoints_and_the_best_are_kept(workshop) -> None:
    config = workshop.config(data={"validation": 0.2}, train={"save_interval": 1, "learning_rate": 3.0})
    run = workshop.train("kept", config)
    losses = {event["step"]: event["loss"] for event in run.events("evaluation")}
    best = min(losses, key=lambda step: losses[step])
    assert best < 7, "this learning rate should have made it worse"
    kept = {path.name for path in (run.run_dir / "checkpoints").iterdir()}
    assert kept == {"step-7", "step-8", f"step-{best}"}


def test_stopping_before_the_first_step_saves_nothing_and_loses_nothing(workshop) -> None:
    class Already(StopRequest):
        def __bool__(self) -> bool:
            return True

        def check(self) -> None:
            raise Stopped("at once")

    with pytest.raises(Stopped):
        workshop.train("early", workshop.config(), stop=Already())
    assert workshop.train("early", workshop.config()).losses().keys() == set(range(1, 9))


def test_another_configuration_does_not_take_over_a_run(workshop) -> None:
    workshop.train("mine", workshop.config())
    shutil.rmtree(workshop.root / "mine" / "final")
    with pytest.raises(BadConfiguration, match=r"another learning_rate: 0\.01 there, 0\.02 here"):
        workshop.train("mine", workshop.config(train={"learning_rate": 0.02}))
    with workshop.pretrain.open("a", encoding="utf-8") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(BadData, match="content has changed"):
        workshop.train("mine", workshop.config())


def test_a_changed_plan_goes_on_from_the_checkpoint(workshop) -> None:
    whole = workshop.train("whole", workshop.config())
    parts = workshop.train("parts", workshop.config())
    shutil.rmtree(parts.run_dir / "final")
    shutil.rmtree(parts.run_dir / "checkpoints" / "step-8")
    plan = {"micro_batch": 3, "activation_checkpointing": True, "optimizer_offload": True}
    again = workshop.train("parts", workshop.config(plan=plan))
    assert again.events("started")[-1]["step"] == 6
    assert again.losses() == pytest.approx(whole.losses(), rel=1e-6)
