"""Jobs with bfloat16 weights or 8-bit moments: what they need at least, and what is refused at submit."""

from pathlib import Path

import pytest

from scheduler.cli.feasibility import least_bytes
from scheduler.errors import MmqError
from scheduler.jobs import checks, jobfile, parameters

JOB = "kind: pretrain\ndata: {path: rows.jsonl}\n"


@pytest.mark.parametrize(
    ("overrides", "bytes_a_weight"),
    [
        ((), 16),
        (("train.optimizer=adamw8bit",), 10),
        (("train.weights=bfloat16",), 14),
        (("train.weights=bfloat16", "train.optimizer=adamw8bit"), 8),
    ],
)
def test_the_least_a_job_needs_follows_what_is_kept_of_each_weight(
    overrides: tuple[str, ...], bytes_a_weight: int
) -> None:
    spec, _ = jobfile.parse(JOB, file="job.yaml", overrides=(*overrides, "memory.optimizer_offload=off"))
    assert least_bytes(spec) == parameters.count(spec.model) * bytes_a_weight


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("train.weights=bfloat16", "train.dtype=float32"), "bfloat16 weights and products in float32"),
        (("train.optimizer=adamw8bit", "train.dtype=float16"), "can't pass over a step"),
    ],
)
def test_what_cannot_be_is_refused(overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(MmqError, match=told):
        jobfile.parse(JOB, file="job.yaml", overrides=overrides)


def test_a_library_that_is_not_there_is_named_at_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    (tmp_path / "rows.jsonl").write_text('{"text": "one two"}\n')
    (tmp_path / "job.yaml").write_text(JOB)
    with pytest.raises(MmqError, match="needs bitsandbytes, which is not installed"):
        jobfile.read(tmp_path / "job.yaml", ["train.optimizer=adamw8bit"])
