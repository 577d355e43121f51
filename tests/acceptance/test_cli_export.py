"""`mmq export`: a result in another program's form, or a word why not."""

from pathlib import Path

import pytest
import torch

from scheduler.config import Settings
from scheduler.jobs.states import EndReason
from scheduler.store import attempts
from scheduler.store.database import Database
from tests.acceptance.conftest import Mmq
from tests.store.samples import ends, queued, running, with_device
from trainer.config import parse_config
from trainer.export import write_final
from trainer.model import MiniMind, initialise
from trainer.tokenizer import open_tokenizer

MODEL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 300}


@pytest.fixture
def result(store: Database, settings: Settings, tmp_path: Path) -> Path:
    """The result of job 1, which succeeded."""
    with_device(store)
    attempts.finish(store, running(store, queued(store)).id, ends(EndReason.DONE, exit_code=0), at=9.0)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "one and one"}\n')
    config = parse_config({"kind": "pretrain", "model": MODEL, "data": {"path": str(rows), "max_seq_len": 32}})
    model = MiniMind(config, torch.device("cpu"))
    initialise(model, seed=1)
    run_dir = settings.run_dir(1)
    run_dir.mkdir(parents=True, exist_ok=True)
    return write_final(run_dir, config, model, open_tokenizer(config, run_dir), "")


def test_each_form_goes_to_a_directory_of_its_own(mmq: Mmq, result: Path, tmp_path: Path) -> None:
    assert mmq("export", "1", "--format", "huggingface") == (0, "tiny-huggingface\n", "")
    names = {path.name for path in (tmp_path / "tiny-huggingface").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert mmq("export", "tiny", "--format", "minimind", "--output", tmp_path / "out").code == 0
    copied = (tmp_path / "out" / "pretrain_32.pth").read_bytes()
    assert copied == (result / "pretrain_32.pth").read_bytes()


def test_what_cannot_be_is_said(mmq: Mmq, store: Database, tmp_path: Path, result: Path) -> None:
    queued(store)
    done = mmq("export", "2", "--format", "minimind")
    assert (done.code, done.err) == (1, "error: job 2 has no result: it is queued\n  hint: mmq status 2\n")
    assert mmq("export", "1-2", "--format", "minimind").code == 1
    (tmp_path / "out").mkdir()
    done = mmq("export", "1", "--format", "minimind", "--output", "out")
    assert (done.code, done.err) == (2, "error: out exists already\n  hint: name another with --output\n")
