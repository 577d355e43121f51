"""`mmq estimate` as typed: a real trace, with no service, no GPU, and none of the files that the job names."""

import json
import sys
from pathlib import Path

import pytest

from scheduler.config import Settings
from tests.acceptance.conftest import JOB, Mmq

GIB = 1 << 30


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(JOB)  # and no rows.jsonl beside it
    return path


def test_an_estimate_has_its_parts_its_candidates_and_a_plan(mmq: Mmq, job_file: Path) -> None:
    done = mmq("estimate", job_file, "--gpu", "RTX 3080 20GB", "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["fits"] is True
    assert told["plan"]["micro_batch"] * told["plan"]["accumulation_steps"] >= told["effective_batch"] == 16
    assert {"weights", "gradients", "optimizer", "activations", "logits", "workspace", "context"} <= set(told["parts"])
    assert sum(told["parts"].values()) == told["plan"]["process_bytes"] > told["plan"]["allocated_bytes"]
    assert {candidate["micro_batch"] for candidate in told["candidates"]} == {1, 2, 4, 8, 16}


def test_an_estimate_in_words_names_what_does_not_fit(mmq: Mmq, job_file: Path) -> None:
    done = mmq("estimate", job_file, "--gpu", "100MiB")
    assert done.code == 0
    assert "does not fit" in done.out.lower()


def test_a_database_that_can_t_be_read_is_done_without(mmq: Mmq, settings: Settings, job_file: Path) -> None:
    settings.create_home()
    (settings.home / "mmq.db").write_text("no database, but a long text that is none" * 100)
    done = mmq("estimate", job_file, "--gpu", "1GiB")
    assert (done.code, done.err) == (0, "")
    assert "is damaged" in mmq("estimate", job_file, "--gpu", "1GiB", "-o", "init_from=pretrain-1").err


def test_a_gpu_nobody_knows_is_refused_with_its_neighbours(mmq: Mmq, job_file: Path) -> None:
    done = mmq("estimate", job_file, "--gpu", "RTX 4909")
    assert done.code == 2
    assert "RTX 4090" in done.err


LOOP = """
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

def build(batch=4):
    model = torch.nn.Linear(1024, 1024).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters())
    def step():
        print("a loop may print")
        model(torch.randn(batch, 1024).to(DEVICE)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, step

def wrong():
    return "a model"
"""


def test_a_loop_of_ones_own_is_estimated_and_drawn(mmq: Mmq, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LOOP)
    plot = tmp_path / "step.html"
    done = mmq("estimate", "--entry", tmp_path / "train.py:build", "--set", "batch=8", "--gpu", "T4", "--plot", plot)
    assert (done.code, done.err) == (0, "")
    assert "1,049,600 parameters, with batch = 8:" in done.out
    assert "|forward" in done.out
    assert "Fits T4 16GB" in done.out
    assert "weights" in done.out  # a file may ask at its top whether there is a GPU
    assert "<svg" in plot.read_text()


def test_a_loop_is_traced_by_its_own_interpreter_beside_a_module_of_our_name(mmq: Mmq, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("ROWS = 8\n")
    (tmp_path / "loop.py").write_text("import trainer\n" + LOOP.replace("batch=4", "batch=trainer.ROWS"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho used > {tmp_path}/used\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    entry = ("estimate", "--entry", tmp_path / "loop.py:build", "--gpu", "T4", "--json")
    assert json.loads(mmq(*entry, "--python", python).out)["fits"]
    assert (tmp_path / "used").exists()
    refused = mmq(*entry, "--python", tmp_path / "missing")
    assert refused.code == 2
    assert "can't be started" in refused.err


@pytest.mark.parametrize(
    ("entry", "code", "told"),
    [
        ("train.py", 2, "is not FILE.py:FUNCTION"),
        ("none.py:build", 2, "there is no file"),
        ("train.py:missing", 1, "has no function missing"),
        ("train.py:wrong", 1, "must return a model"),
    ],
)
def test_an_entry_that_can_not_be_used_is_named(mmq: Mmq, tmp_path: Path, entry: str, code: int, told: str) -> None:
    (tmp_path / "train.py").write_text(LOOP)
    done = mmq("estimate", "--entry", tmp_path / entry, "--gpu", "T4")
    assert done.code == code
    assert told in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_a_model_beyond_one_machine_has_a_table_of_its_states(mmq: Mmq) -> None:
    done = mmq("estimate", "--parameters", "671B", "--precision", "half", "--json")
    told = json.loads(done.out)
    assert (told["precisions"][0]["weights_bytes"], told["precisions"][0]["total_bytes"]) == (
        1342 * 10**9,
        5368 * 10**9,
    )
    assert mmq("estimate", "--parameters", "many").code == 2
    assert mmq("estimate").code == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("job.yaml --entry loop.py:build", "only one of FILE, --entry and --parameters"),
        ("job.yaml --set batch=3", "--set goes with --entry only"),
        ("--parameters 671B --gpu A100", "--gpu goes with FILE or --entry only"),
        ("--entry loop.py:build -o train.seed=1", "-o goes with FILE only"),
        ("job.yaml --plot a.png", "a.png is neither .svg nor .html"),
        ("job.yaml --plot nowhere/a.svg", "there is no folder nowhere"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_work(mmq: Mmq, words: str, told: str) -> None:
    done = mmq("estimate", *words.split())
    assert done.code == 2
    assert told in done.err
