"""`mmq export` as typed, on a job's real result; torch is loaded by its child alone."""

from pathlib import Path

import torch

from tests.acceptance.conftest import Mmq


def test_each_form_goes_to_a_directory_of_its_own(shell: Mmq, result: Path, tmp_path: Path) -> None:
    assert shell("$MMQ export 1 --format huggingface") == (0, "tiny-huggingface\n", "")
    names = {path.name for path in (tmp_path / "tiny-huggingface").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert shell("$MMQ export tiny --format minimind --output out").code == 0
    given, kept = (torch.load(place / "pretrain_64.pth", weights_only=True) for place in (tmp_path / "out", result))
    assert all(torch.equal(given.pop(name), tensor) for name, tensor in kept.items())
    assert not given


def test_what_cannot_be_is_said(mmq: Mmq, shell: Mmq, result: Path, tmp_path: Path) -> None:
    assert mmq("export", "1", "--format", "onnx").code == 2
    (tmp_path / "out").mkdir()
    done = shell("$MMQ export 1 --format minimind --output out")
    assert done == (2, "", "error: out exists already\n  hint: name another directory\n")
