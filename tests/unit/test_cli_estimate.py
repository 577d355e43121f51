"""An estimate in words: what fits, what would be chosen, what is left."""

from typing import Any

import pytest

from scheduler.cli.estimateview import text

GIB = 1 << 30


def candidate(
    micro_batch: int, process_bytes: int, *, checkpointing: bool = False, fits: bool = True
) -> dict[str, Any]:
    return {
        "micro_batch": micro_batch,
        "accumulation_steps": 16 // micro_batch,
        "activation_checkpointing": checkpointing,
        "optimizer_offload": False,
        "chunked_loss": True,
        "allocated_bytes": process_bytes - GIB,
        "reserved_bytes": process_bytes - GIB // 2,
        "process_bytes": process_bytes,
        "parts": {},
        "fits": fits,
    }


def answer(**changes: Any) -> dict[str, Any]:
    told = {
        "gpu": {"name": "RTX 4090", "kind": "cuda", "total_bytes": 24 * GIB},
        "plan": candidate(8, 20 * GIB),
        "reserve_bytes": 21 * GIB,
        "parts": {"weights": 2 * GIB, "activations": 17 * GIB, "logits": 0, "context": GIB},
        "candidates": [
            candidate(8, 20 * GIB),
            candidate(16, 40 * GIB, fits=False),
            candidate(16, 18 * GIB, checkpointing=True),
        ],
        "effective_batch": 16,
        "max_memory_bytes": None,
        "parameters": 63_912_192,
        "fits": True,
    }
    return told | changes


def test_a_plan_is_told_with_what_is_left() -> None:
    shown = text(answer())
    assert "63,912,192 parameters. At the peak, 20.0 GiB:" in shown
    assert "logits" not in shown
    assert "(1 more with other means of saving memory: --json)" in shown
    told = " ".join(shown.split())
    assert "Plan: micro-batch 8 x 2 accumulation steps (effective batch 16), with chunked loss." in told
    assert "Fits RTX 4090 (24.0 GiB) with 3.0 GiB to spare: it would reserve 21.0 GiB." in told
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()[:1].isdigit()}
    assert "chosen" in rows["8"]
    assert " no " in rows["16"]


def test_what_does_not_fit_says_how_little_it_needs() -> None:
    told = answer(plan=None, reserve_bytes=None, fits=False)
    shown = " ".join(text(told).split())
    assert "Does not fit RTX 4090 (24.0 GiB), whatever the micro-batch: the least it needs is 18.0 GiB." in shown
    capped = " ".join(text(told | {"max_memory_bytes": 4 * GIB}).split())
    assert "Does not fit its max_memory of 4.0 GiB, whatever the micro-batch" in capped


def test_the_means_are_told_in_full_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plain, more = candidate(8, 40 * GIB, fits=False), candidate(8, 30 * GIB, checkpointing=True, fits=False)
    shown = text(answer(plan=None, candidates=[plain, more, more | {"optimizer_offload": True}]))
    assert "checkpointing, offload, chunked loss\n" in shown
    assert "checkpointing, chunked loss\n" in shown
    assert max(map(len, shown.splitlines())) <= 80
