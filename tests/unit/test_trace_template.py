"""The template of a run: equal, byte for byte, to rehearsing each candidate."""

from typing import Any

import pytest
import torch

from trainer.config import Config, parse_config
from trainer.memory.allocator import CachingAllocator
from trainer.memory.capacity import Limited
from trainer.model import loss
from trainer.trace.footprint import PeakPredictor, rows_of_step
from trainer.trace.log import Alloc, Label, Log, Phase, Section, Stage
from trainer.trace.rehearsal import Target
from trainer.trace.template import Unaligned, build_template

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
MODES = [(False, False, False), (False, True, True), (True, False, True), (True, True, False)]  # each pair once


def configured(plan: tuple[bool, bool, bool], **changes: Any) -> Config:
    checkpointing, offload, chunked = plan
    return parse_config(
        {
            "kind": "pretrain",
            "data": {"path": "x", "max_seq_len": 24, "validation": 0.1},
            "model": {**SMALL, **changes.get("model", {})},
            "train": {"batch_size": 7, "accumulation_steps": 1, "dtype": changes.get("dtype", "bfloat16")},
            "plan": {
                "activation_checkpointing": checkpointing,
                "optimizer_offload": offload,
                "chunked_loss": chunked,
            },
        }
    )


def peaks(predictor: PeakPredictor, micro_batch: int) -> tuple[int, int]:
    outcome = predictor.outcome(micro_batch)
    return outcome.allocated_bytes, outcome.reserved_bytes


@pytest.mark.parametrize("plan", MODES)
def test_a_template_equals_a_rehearsal(plan: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 300 * 10)  # chunks of ten tokens: many iterations of the loop
    kind, dtype = ("cuda", "bfloat16") if plan[0] else ("virtual", "float32")
    config, target = configured(plan, dtype=dtype), Target(kind=kind)
    fitted, rehearsed = PeakPredictor(config, target), PeakPredictor(config, target, templates=False)
    for micro_batch in (1, 3):
        assert peaks(fitted, micro_batch) == peaks(rehearsed, micro_batch)


def test_a_float16_run_of_an_older_preset_too() -> None:
    config = configured(
        (False, False, True),
        dtype="float16",
        model={"qk_norm": False, "tie_word_embeddings": False, "num_key_value_heads": 4},
    )
    target = Target(kind="cuda", capability="9.0")
    assert peaks(PeakPredictor(config, target), 2) == peaks(PeakPredictor(config, target, templates=False), 2)


def test_the_parts_make_up_the_whole() -> None:
    predictor = PeakPredictor(configured((False, False, False)), Target(kind="virtual"))
    candidate, parameters = predictor.candidate(3), predictor.parameters
    parts = candidate.parts
    assert sum(parts.values()) == candidate.process_bytes
    assert parts["optimizer"] >= 8 * parameters
    assert 4 * parameters <= parts["gradients"] < 5 * parameters
    assert parts["logits"] >= 4 * (3 * 23) * 300
    assert parts["workspace"] == 2 * 8_519_680
    assert parts["context"] == 0  # who asks adds it


def test_a_cpu_takes_no_workspace_and_caches_nothing() -> None:
    candidate = PeakPredictor(configured((False, False, True)), Target(kind="cpu")).candidate(4)
    assert candidate.outcome.allocated_bytes == candidate.outcome.reserved_bytes
    assert candidate.parts["workspace"] == candidate.parts["cached"] == 0


def test_more_rows_need_more_and_checkpointing_less() -> None:
    target = Target(kind="cpu")
    plain, checkpointed = (PeakPredictor(configured((on, False, True)), target) for on in (False, True))
    needed = [plain.outcome(rows).allocated_bytes for rows in range(1, 8)]
    assert needed == sorted(needed)  # 3 + 3 + 1 and 4 + 3 may peak alike: in the second, beside the gradients
    assert needed[0] < needed[2] < needed[6]
    assert checkpointed.outcome(6).allocated_bytes < plain.outcome(6).allocated_bytes


def test_a_replay_under_a_smaller_limit_is_refused() -> None:
    predictor = PeakPredictor(configured((False, False, True)), Target(kind="virtual"))
    needed = predictor.outcome(5).reserved_bytes
    assert predictor.outcome(5, CachingAllocator(Limited(needed))).reserved_bytes == needed
    with pytest.raises(torch.OutOfMemoryError):
        predictor.outcome(5, CachingAllocator(Limited(needed // 2)))


def test_the_micro_batches_of_a_step() -> None:
    assert rows_of_step(8, 8) == [8]
    assert rows_of_step(8, 3) == [3, 3, 2]
    assert rows_of_step(7, 1) == [1, 1]
    assert rows_of_step(5, 4) == [4, 1]


def log_of(*sections: tuple[int, list[int]]) -> Log:
    label = Label(Stage.MICRO_BATCH, 0, False, "op", 1)
    return Log(
        sections=[
            Section(
                Phase(Stage.MICRO_BATCH),
                rows,
                [Alloc(label._replace(number=n), size, False) for n, size in enumerate(sizes)],
            )
            for rows, sizes in sections
        ]
    )


def test_a_run_that_is_no_line_is_found_out() -> None:
    build_template(log_of((2, [10]), (3, [15]), (5, [25])))
    with pytest.raises(Unaligned, match="proportion"):
        build_template(log_of((2, [10]), (3, [15]), (5, [26])))
    with pytest.raises(Unaligned, match="different blocks"):
        build_template(log_of((2, [10]), (3, [15, 1])))
