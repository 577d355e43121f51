"""The proof for one rank of several: what the tracer predicts is what the first of two processes takes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.test_trace_against_runs import configured, rows
from tests.training.conftest import PATIENCE_SECONDS, Outcome
from tests.training.several import Pair
from trainer.config import Config
from trainer.trace.footprint import PeakPredictor
from trainer.trace.rehearsal import Target

__all__ = ["rows"]
pytestmark = pytest.mark.timeout(6 * PATIENCE_SECONDS)  # the pair makes all its runs before the first test

SEGMENT_BYTES = 2 * 1024**2  # of the pool of small blocks
TARGET = Target(kind="virtual", processes=2)
MODEL = {"hidden_size": 128, "num_hidden_layers": 3, "num_key_value_heads": 2}
EXPERTS = MODEL | {"hidden_size": 64, "use_moe": True}
CASES: dict[str, dict[str, Any]] = {
    "whole": {"model": MODEL, "dtype": "bfloat16", "plan": {}},
    "whole-experts": {"model": EXPERTS, "dtype": "float32", "plan": {"activation_checkpointing": "full"}},
    "zero2": {"model": MODEL, "dtype": "bfloat16", "plan": {"sharding": "zero2", "optimizer_offload": True}},
    "zero3": {"model": MODEL, "dtype": "float32", "plan": {"sharding": "zero3", "activation_checkpointing": "full"}},
    "zero3-experts": {"model": EXPERTS, "dtype": "bfloat16", "plan": {"sharding": "zero3"}},
    "tensor": {"model": MODEL, "dtype": "bfloat16", "plan": {"tensor_parallel": 2}},
}


@pytest.fixture(scope="module")
def configs(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Config]:
    ledgers = tmp_path_factory.mktemp("ledgers")
    return {
        name: configured(rows, ledgers / name, effective_batch=8, micro_batch=2, **case) for name, case in CASES.items()
    }


@pytest.fixture(scope="module")
def runs(configs: dict[str, Config], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    pair = Pair(tmp_path_factory.mktemp("runs"))
    for name, config in configs.items():
        pair.run(name, msgspec.to_builtins(config))
    assert set(pair.wait()) == {0}
    return {name: Outcome(pair.root / name) for name in configs}


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3-experts", "tensor"])
def test_a_template_of_a_rank_is_its_rehearsal(name: str, configs: dict[str, Config]) -> None:
    config = configs[name]
    fitted, rehearsed = (PeakPredictor(config, TARGET, templates=templates) for templates in (True, False))
    assert fitted.has_template
    for micro_batch in (1, 3):
        one, other = fitted.outcome(micro_batch), rehearsed.outcome(micro_batch)
        assert (one.allocated_bytes, one.reserved_bytes) == (other.allocated_bytes, other.reserved_bytes)


@pytest.mark.parametrize("name", CASES)
def test_a_prediction_is_what_a_rank_takes(name: str, configs: dict[str, Config], runs: dict[str, Outcome]) -> None:
    config = configs[name]
    outcome = PeakPredictor(config, TARGET).candidate(config.micro_batch).outcome
    (last,) = runs[name].events("finished")
    assert last["allocated_peak_bytes"] == pytest.approx(outcome.allocated_bytes, rel=0.005)
    assert abs(last["reserved_peak_bytes"] - outcome.reserved_bytes) <= SEGMENT_BYTES
