"""Every GPU of the catalogue: what an estimate says of it hangs together, whatever the job."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.controller import estimate
from scheduler.controller.estimate import Estimate, estimates
from scheduler.devices.catalogue import CATALOGUE
from scheduler.footprint.tracer import Answer
from scheduler.jobs.jobfile import parse
from tests.controller.bench import settings_at
from trainer.trace.answer import answer

GIB = 1 << 30
JOB = "kind: pretrain\nname: one\ndata: {path: /rows.jsonl}\nmemory: {activation_checkpointing: off}\n"


def traced(key: str, request: Mapping[str, Any], **_: float) -> Answer:
    """Trace here, where torch is imported already."""
    return Answer(key=key, body=json.dumps(answer(json.dumps(request).encode())))


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.sampled_from([512, 2048, 8192]),
    length=st.sampled_from([340, 2048, 8192]),
    batch=st.sampled_from([6, 32, 100]),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
    chunked=st.booleans(),
)
def test_what_is_said_of_each_gpu_hangs_together(
    width: int, length: int, batch: int, dtype: str, chunked: bool, tmp_path: Path
) -> None:
    spec, problems = parse(
        JOB,
        file="job.yaml",
        overrides=(
            f"model.hidden_size={width}",
            "model.num_hidden_layers=2",
            f"data.max_seq_len={length}",
            f"train.batch_size={batch}",
            f"train.dtype={dtype}",
            f"memory.chunked_loss={'auto' if chunked else 'off'}",
        ),
    )
    problems.raise_any()
    with patch.object(estimate, "trace", traced):
        found = estimates(spec, [entry.name for entry in CATALOGUE], settings_at(tmp_path / "home"))
    for one, entry in zip(found, CATALOGUE, strict=True):
        assert one.place.name == entry.name
        assert one.place.total_bytes <= (entry.memory_gb or 0) * GIB
        _hangs_together(one)
    for one in found:
        for other in found:
            if one.place.target == other.place.target and one.place.total_bytes <= other.place.total_bytes:
                assert _fitting(one) <= _fitting(other)


def _fitting(one: Estimate) -> set[Any]:
    return {(c.micro_batch, c.modes) for c in one.footprint.candidates if one.fits(c)}


def _hangs_together(one: Estimate) -> None:
    by_modes: dict[Any, list[Any]] = {}
    for candidate in sorted(one.footprint.candidates, key=lambda c: c.micro_batch):
        by_modes.setdefault(candidate.modes, []).append(candidate)
        assert candidate.allocated_bytes <= candidate.reserved_bytes < candidate.process_bytes
        assert sum(candidate.parts.values()) == candidate.process_bytes
    for same in by_modes.values():
        fits = [one.fits(candidate) for candidate in same]
        assert fits == sorted(fits, reverse=True), "a larger micro-batch fits where a smaller one does not"
    told = one.as_json()
    assert told["fits"] is (one.plan is not None) is any(row["fits"] for row in told["candidates"])
    if one.plan is not None:
        assert told["knee"]["micro_batch"] == one.plan.micro_batch <= told["knee"]["largest"]
        assert one.plan.candidate.process_bytes <= one.plan.reserve_bytes <= one.place.total_bytes
