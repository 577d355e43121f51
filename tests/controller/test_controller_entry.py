"""`mmq estimate --entry`'s part: which traces the GPUs share, and what is added to them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scheduler.controller import entry as entries
from scheduler.footprint.context import context_bytes, nccl_bytes
from scheduler.footprint.loop import Traced
from tests.controller.bench import settings_at

GIB = 1 << 30
ALIKE = ["RTX 3060", "RTX 4090", "A100 80GB"]


class Loop:
    """Answers like the tracer of a loop, and writes down what it was asked."""

    def __init__(self, **told: Any) -> None:
        self.told = told
        self.asked: list[Mapping[str, Any]] = []

    def __call__(self, request: Mapping[str, Any], *, python: str) -> Traced:
        self.asked.append(request)
        sizes = dict.fromkeys((*entries.COUNTERS, "expandable_bytes"), GIB)
        parts = {"weights": GIB, "context": 0}
        return Traced(body=json.dumps({"parameters": 1, "course": [], "parts": parts, **sizes, **self.told}))


@pytest.fixture
def estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = tmp_path / "loop.py"
    file.touch()

    def estimate(loop: Loop, gpus: list[str]) -> list[dict[str, Any]]:
        monkeypatch.setattr(entries, "trace_loop", loop)
        return entries.estimate_entry(entries.parse_entry(f"{file}:build", ()), gpus, settings_at(tmp_path))

    return estimate


def test_gpus_for_which_torch_chooses_alike_share_a_trace(estimated: Any) -> None:
    loop = Loop(processes=2)
    told = estimated(loop, [*ALIKE, "RTX 5090", "T4"])
    assert [one["capability"] for one in loop.asked] == ["8.6", "12.0", "7.5"]
    for one, capability in zip(told, ["8.6", "8.9", "8.0", "12.0", "7.5"], strict=True):
        outside = context_bytes("cuda", capability) + nccl_bytes("cuda", capability, 2)
        assert one["process_bytes"] == one["least_bytes"] == GIB + outside
        assert one["parts"] == {"weights": GIB, "context": outside}
        assert one["allocated_bytes"] == GIB


def test_a_loop_that_asks_which_gpu_it_is_on_is_traced_for_each(estimated: Any) -> None:
    loop = Loop(asks=True)
    estimated(loop, [*ALIKE, "RTX 3060"])
    assert [one["capability"] for one in loop.asked] == ["8.6", "8.9", "8.0"]


def test_both_routings_are_shared(estimated: Any) -> None:
    loop = Loop(routed=True)
    estimated(loop, ALIKE)
    assert [one["uneven"] for one in loop.asked] == [False, True]
