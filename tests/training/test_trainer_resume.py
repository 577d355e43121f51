"""Killed, stopped or damaged: the run goes on, bit for bit."""

import errno
import hashlib
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.conftest import Outcome
from trainer.__main__ import main
from trainer.errors import BadConfiguration, BadData, DiskFull, ExitCode, Stopped
from trainer.files.checkpoint import RunState, load_newest, save
from trainer.reporting.events import EventLog
from trainer.stopping import StopRequest

LONG = {"max_steps": 36, "save_interval": 7}


def test_killed_and_resumed_is_the_undisturbed_run_bit_for_bit(workshop) -> None:
    undisturbed = workshop.train("undisturbed", workshop.config(train=LONG))
    killed = workshop.start("killed", workshop.config(train=LONG))
    killed.until(lambda run: len(run.events("step")) >= 17)
    killed.signal(signal.SIGKILL)
    assert killed.wait()[0] == -signal.SIGKILL
    last = max(int(path.name[5:]) for path in (killed.run_dir / "checkpoints").glob("step-*"))
    resumed = workshop.train("killed", workshop.config(train=LONG, attempt=2))

    start = resumed.events("started")[-1]
    assert (Path(start["resumed_from"]).name, start["step"]) == (f"step-{last}", last)
    assert last >= 14
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


def test_the_newest_two_checkpoints_and_the_best_are_kept(tmp_path) -> None:
    tensors = {"some": torch.ones(3)}
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 1.5], start=1):
        save(tmp_path, RunState(step=step, identity={}, validation_loss=loss), tensors, tensors)
    assert {path.name for path in tmp_path.iterdir()} == {"step-2", "step-4", "step-5"}


def test_a_run_set_back_by_damage_keeps_what_it_saves_from_then_on(tmp_path) -> None:
    tensors = {"some": torch.ones(3)}
    for step, loss in ((10, 3.0), (20, 2.0), (30, 1.0)):
        save(tmp_path, RunState(step=step, identity={}, validation_loss=loss), tensors, tensors)
    for step in (20, 30):
        (tmp_path / f"step-{step}" / "model.safetensors").write_bytes(b"")
    (tmp_path / "step-10").mkdir(exist_ok=True)
    for step in (13, 16):
        save(tmp_path, RunState(step=step, identity={}), tensors, tensors)
        found, damage = load_newest(tmp_path)
        assert found is not None
        assert (found.state.step, damage) == (step, [])
    assert {path.name for path in tmp_path.iterdir()} == {"step-13", "step-16"}


def test_a_checkpoint_cut_off_while_it_was_written_is_no_checkpoint(tmp_path, monkeypatch) -> None:
    tensors = {"some": torch.ones(3)}
    save(tmp_path, RunState(step=1, identity={}), tensors, tensors)

    class Killed(BaseException):
        pass

    def killed(file: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("trainer.files.checkpoint._facts", killed)
        with pytest.raises(Killed):
            save(tmp_path, RunState(step=2, identity={}), tensors, tensors)
    (tmp_path / ".tmp-step-3-99").mkdir()  # of a process that could not even clean up
    found, damage = load_newest(tmp_path)
    assert found is not None
    assert (found.state.step, damage) == (1, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_a_full_disk_is_said_and_leaves_the_checkpoints_there_are(workshop, monkeypatch) -> None:
    def full(tensors: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    workshop.train("full", workshop.config())
    shutil.rmtree(workshop.root / "full" / "final")
    shutil.rmtree(workshop.root / "full" / "checkpoints" / "step-8")
    monkeypatch.setattr("trainer.files.checkpoint.save_tensors", full)
    with pytest.raises(DiskFull, match=r"no room to write .*step-8: .* MiB free"):
        workshop.train("full", workshop.config())
    checkpoints = workshop.root / "full" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-6"]


def test_a_disk_that_is_full_for_the_events_is_no_crash(workshop, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trainer.__main__.StopRequest.listen", lambda self: None)
    config = workshop.root / "full-log.json"
    config.write_text(json.dumps(workshop.config()))
    written = EventLog.write

    def write(self: EventLog, event: str, **fields: object) -> None:
        if event == "step":
            raise OSError(errno.ENOSPC, "No space left on device")
        written(self, event, **fields)

    monkeypatch.setattr(EventLog, "write", write)
    run_dir = workshop.root / "full-log"
    assert main([str(config), str(run_dir)]) == ExitCode.FAILED
    assert "Traceback" not in capsys.readouterr().err
    last = json.loads((run_dir / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["reason"]) == ("failed", "disk_full")


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
    with pytest.raises(BadConfiguration, match=r"another model: (.|\n)*hint: use another run directory"):
        workshop.train("mine", workshop.config(model={"hidden_size": 64}))
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


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def forged(workshop, forge: Callable[[Path], object]) -> Outcome:
    """A run whose newest checkpoint was forged, its checksums too."""
    whole = workshop.train("whole", workshop.config())
    shutil.rmtree(whole.run_dir / "final")
    newest = whole.run_dir / "checkpoints" / "step-8"
    path = newest / "model.safetensors"
    forge(path)
    manifest = json.loads((newest / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["files"][path.name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    return whole


def test_a_pickle_in_place_of_a_checkpoint_is_passed_over_and_never_run(workshop) -> None:
    mark = workshop.root / "ran"
    whole = forged(workshop, lambda path: torch.save({"model": Payload(mark)}, path))
    before = whole.losses()
    again = workshop.train("whole", workshop.config())
    assert "step-8" in again.events("checkpoint_damaged")[0]["message"]
    assert again.events("started")[-1]["step"] == 6
    assert again.losses() == before
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensor: {"model.norm.weight": torch.zeros(5)}, r"norm.weight: the model has \[32\], the file \[5\]"),
        (lambda tensor: {"model.norm.weight": tensor.to(torch.int32)}, "model.norm.weight is torch.int32"),
    ],
    ids=["wrong shape", "another kind of number"],
)
def test_a_whole_checkpoint_of_another_model_is_passed_over_for_the_one_before(workshop, change, told) -> None:
    whole = forged(workshop, changed_by(change))
    before = whole.losses()
    again = workshop.train("whole", workshop.config())
    assert re.search(told, again.events("checkpoint_damaged")[0]["message"])
    assert again.events("started")[-1]["step"] == 6
    assert again.losses() == before


def test_where_no_whole_checkpoint_fits_nothing_is_begun_anew(workshop) -> None:
    """Perhaps another version has written them: days of training, which a person decides about."""
    whole = forged(workshop, changed_by(lambda tensor: {"model.norm.weight": torch.zeros(5)}))
    shutil.rmtree(whole.run_dir / "checkpoints" / "step-6")
    with pytest.raises(BadConfiguration, match=r"step-8 does not fit the model:(.|\n)*hint: mv .*/checkpoints "):
        workshop.train("whole", workshop.config())
    assert [path.name for path in (whole.run_dir / "checkpoints").iterdir()] == ["step-8"]


def changed_by(change: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        tensors = load_file(path)
        save_file(tensors | change(tensors["model.norm.weight"]), path)

    return forge
