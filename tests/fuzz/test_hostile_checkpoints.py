"""A trainer in a run directory that holds anything: it goes on from what is whole, or refuses in a sentence. No code of
a file is run, nothing is waited for, and nothing outside the directory is touched.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.training.conftest import Workshop
from trainer.__main__ import main
from trainer.config import parse_config
from trainer.control import Control, ControlFile
from trainer.errors import BadConfiguration, ExitCode
from trainer.files import checkpoint
from trainer.files.result import find
from trainer.files.storage import remove_leftovers, write_file
from trainer.files.weights import read_weights
from trainer.processes.group import Alone
from trainer.reporting.ending import Ending, begin, settle
from trainer.reporting.events import EventLog
from trainer.stopping import used_seconds

NAMES = ["model.safetensors", "training.safetensors", "state.json", "manifest.json"]
Spoil = Callable[[Path], object]


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    torch.set_num_threads(1)
    workshop = Workshop(tmp_path_factory.mktemp("hostile"))
    workshop.train("run", workshop.config())
    return workshop


@pytest.fixture
def run_dir(trained: Workshop, tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 6 and 8, and without a result."""
    copy = tmp_path / "run"
    shutil.copytree(trained.root / "run", copy)
    shutil.rmtree(copy / "final")
    return copy


def sign(directory: Path) -> None:
    """Write a manifest that agrees with what is there, as somebody who knows the format would."""
    files = {
        path.name: {"size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in directory.iterdir()
        if path.name != "manifest.json"
    }
    step = int(directory.name.removeprefix("step-"))
    (directory / "manifest.json").write_text(json.dumps({"step": step, "validation_loss": None, "files": files}))


@given(name=st.sampled_from(NAMES), content=st.binary(max_size=300), signed=st.booleans())
@example(name="state.json", content=b"[" * 100_000, signed=True)
@example(name="model.safetensors", content=(1 << 62).to_bytes(8, "little") + b"{}", signed=True)
@example(name="manifest.json", content=b'{"step": 8, "validation_loss": null, "files": {"../../x": {}}}', signed=False)
def test_a_checkpoint_of_any_bytes_is_passed_over(trained: Workshop, name: str, content: bytes, signed: bool) -> None:
    root = trained.root / "spoiled"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(trained.root / "run/checkpoints", root)
    (root / "step-8" / name).write_bytes(content)
    if signed and name != "manifest.json":
        sign(root / "step-8")
    found, damage = checkpoint.load_newest(root)
    assert found is not None
    assert found.path.name == "step-6"
    assert len(damage) == 1
    checkpoint.newest_state(root)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link"])
def test_what_is_no_file_in_a_checkpoint_is_damage(run_dir: Path, name: str, kind: str) -> None:
    put(kind, run_dir / "checkpoints/step-8" / name)
    found, damage = checkpoint.load_newest(run_dir / "checkpoints")
    assert found is not None
    assert (found.path.name, len(damage)) == ("step-6", 1)


def put(kind: str, path: Path) -> None:
    path.unlink(missing_ok=True)
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "link":
            path.symlink_to("/etc/hostname")
        case _:
            path.mkdir()


@pytest.mark.parametrize("spoil", ["shape", "names", "random"])
def test_a_signed_checkpoint_of_another_run_is_refused_in_a_sentence(
    trained: Workshop, run_dir: Path, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir, trained.root / f"signed-{spoil}")
    newest = trained.root / f"signed-{spoil}/checkpoints/step-8"
    tensors = {"shape": {"model.norm.weight": torch.zeros(3)}, "names": {"odd": torch.zeros(2)}}
    file = "model.safetensors" if spoil == "shape" else "training.safetensors"
    save_file(tensors.get(spoil, {"random": torch.zeros(1, dtype=torch.uint8)}), newest / file)
    sign(newest)
    shutil.rmtree(newest.with_name("step-6"))
    with pytest.raises(BadConfiguration, match="does not fit"):
        trained.train(f"signed-{spoil}", trained.config())


def test_a_pickle_is_never_run(tmp_path: Path, run_dir: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model.norm.weight": Payload(mark)}, tmp_path / "torch.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(mark)))
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    for name in ("torch.pth", "bare.pth", "named.safetensors"):
        with pytest.raises(BadConfiguration, match="is not a weights file"):
            read_weights(tmp_path / name)
    for name in NAMES:
        (run_dir / "checkpoints/step-8" / name).write_bytes(pickle.dumps(Payload(mark)))
    found, _ = checkpoint.load_newest(run_dir / "checkpoints")
    assert found is not None
    assert found.path.name == "step-6"
    assert not mark.exists()


@given(st.binary(max_size=400), st.sampled_from([".pth", ".safetensors"]))
@example(b"PK\x03\x04", ".pth")
def test_weights_of_any_bytes_are_refused(trained: Workshop, content: bytes, suffix: str) -> None:
    path = trained.root / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadConfiguration, match="is not a weights file"):
        read_weights(path)


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path: Path, trained: Workshop, run_dir: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    run = trained.root / "linked"
    shutil.copytree(run_dir, run)
    (run / ".tmp-a").symlink_to(outside)
    (run / "checkpoints/.tmp-b").symlink_to(outside / "precious")
    shutil.rmtree(run / "checkpoints/step-8")
    (run / "checkpoints/step-3").symlink_to(outside)
    (run / "checkpoints/step-9").symlink_to(outside)
    (run / ".tmp-tokenizer.json").symlink_to(outside / "precious")
    trained.train("linked", trained.config())
    assert (outside / "precious").read_text() == "mine"
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-6", "step-8"]
    assert not any(path.is_symlink() for path in run.rglob("*"))


def test_a_link_where_a_file_is_put_in_place_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".tmp-result.json").symlink_to(outside)
    (run / "result.json").symlink_to(outside)
    write_file(run / "result.json", b"ours")
    assert (outside.read_text(), (run / "result.json").read_bytes()) == ("mine", b"ours")
    (run / ".tmp-x").symlink_to(run)
    remove_leftovers(run)
    assert (run / "result.json").exists()


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"number": 1, "micro_batch": 1e400}')
@example(b'{"number": 99999999999999999999, "micro_batch": 1}')
def test_any_control_file_is_a_request_or_is_refused(trained: Workshop, content: bytes) -> None:
    (trained.root / "control.json").write_bytes(content)
    found = ControlFile(trained.root, Alone(), EventLog(None)).next_request()
    assert found is None or isinstance(found, Control)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, kind: str) -> None:
    put(kind, tmp_path / "control.json")
    assert ControlFile(tmp_path, Alone(), EventLog(None)).next_request() is None
    put(kind, tmp_path / "events.jsonl")
    config = tmp_path / "config.json"
    config.write_text("{}")
    assert main([str(config), str(tmp_path)]) == ExitCode.BAD_CONFIGURATION
    if kind != "directory":
        put(kind, tmp_path / "result.json")
        settle(tmp_path, Ending(exit_code=1, reason="lost_process", message="", rank=0))
        begin(tmp_path)


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"elapsed_seconds": ' + b"9" * 400 + b"}")
def test_any_earlier_events_leave_a_time(trained: Workshop, content: bytes) -> None:
    (trained.root / "events.jsonl").write_bytes(content)
    assert 0 <= used_seconds(trained.root / "events.jsonl") < float("inf")


keys = st.sampled_from(["kind", "data", "model", "train", "plan", "device", "path", "ledger", "hidden_size"])
configs = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["pretrain", "sft", "cpu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)


@given(configs)
def test_any_config_is_read_or_refused(config: object) -> None:
    try:
        parse_config(config)
    except BadConfiguration:
        return


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"kind": "pretrain"}')
@example(b"[]")
def test_any_result_to_read_back_is_one_or_is_refused(trained: Workshop, content: bytes) -> None:
    final = trained.root / "other/final"
    final.mkdir(parents=True, exist_ok=True)
    (final / "model.safetensors").write_bytes(b"")
    (final / "config.json").write_bytes(content)
    try:
        found = find(final.parent)
        found.config(data={"path": ""})
    except BadConfiguration:
        return
    assert found.kind in ("pretrain", "sft")
