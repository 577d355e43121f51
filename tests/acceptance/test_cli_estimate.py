"""`mmq estimate` as typed: a real trace, with no service, no GPU, and none of the files that the job names."""

import json
from pathlib import Path

import pytest

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


def test_a_gpu_nobody_knows_is_refused_with_its_neighbours(mmq: Mmq, job_file: Path) -> None:
    done = mmq("estimate", job_file, "--gpu", "RTX 4909")
    assert done.code == 2
    assert "RTX 4090" in done.err
