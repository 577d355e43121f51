"""An estimate in words: what fits, what would be chosen, what is left."""

from typing import Any

import pytest

from scheduler.cli.estimateview import explained, text

GIB = 1 << 30


def candidate(
    micro_batch: int, process_bytes: int, *, checkpointing: bool = False, fits: bool = True
) -> dict[str, Any]:
    return {
        "micro_batch": micro_batch,
        "accumulation_steps": 16 // micro_batch,
        "activation_checkpointing": "full" if checkpointing else "off",
        "optimizer_offload": False,
        "chunked_loss": True,
        "allocated_bytes": process_bytes - GIB,
        "reserved_bytes": process_bytes - GIB // 2,
        "process_bytes": process_bytes,
        "parts": {},
        "fits": fits,
    }


def answer(**changes: Any) -> dict[str, Any]:
    estimate = {
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
        "knee": {"micro_batch": 8, "largest": 16},
        "explain": {
            "torch": "2.13.0",
            "capability": "8.9",
            "context_bytes": 499 << 20,
            "nccl_bytes": 0,
            "correction_bytes": 0,
            "margin_bytes": GIB,
        },
    }
    return estimate | changes


def test_a_plan_is_told_with_what_is_left() -> None:
    shown = text(answer())
    assert "63,912,192 parameters. At the peak, 20.0 GiB:" in shown
    assert "logits" not in shown
    assert "(1 more with other means of saving memory: --json)" in shown
    line = " ".join(shown.split())
    assert "Plan: micro-batch 8 x 2 accumulation steps (effective batch 16), with chunked loss." in line
    assert "Fits RTX 4090 (24.0 GiB) with 3.0 GiB to spare: it would reserve 21.0 GiB." in line
    assert "The largest micro-batch that fits is 16; 8 is as fast." in line
    largest = text(answer(knee={"micro_batch": 8, "largest": 8}))
    assert "No larger micro-batch in the table would fit." in " ".join(largest.split())
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()[:1].isdigit()}
    assert "chosen" in rows["8"]
    assert " no " in rows["16"]


def test_what_does_not_fit_says_how_little_it_needs() -> None:
    estimate = answer(plan=None, reserve_bytes=None, fits=False)
    shown = " ".join(text(estimate).split())
    assert "Does not fit RTX 4090 (24.0 GiB), whatever the micro-batch: the least it needs is 18.0 GiB." in shown
    capped = " ".join(text(estimate | {"max_memory_bytes": 4 * GIB}).split())
    assert "Does not fit its max_memory of 4.0 GiB, whatever the micro-batch" in capped


def test_the_means_are_told_in_full_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plain, more = candidate(8, 40 * GIB, fits=False), candidate(8, 30 * GIB, checkpointing=True, fits=False)
    shown = text(answer(plan=None, candidates=[plain, more, more | {"optimizer_offload": True}]))
    assert "checkpointing, offload, chunked loss\n" in shown
    assert "checkpointing, chunked loss\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_explained_it_says_what_it_rests_on_and_draws_a_step() -> None:
    point = {"phase": "micro-batch", "allocated_bytes": 2 * GIB, "reserved_bytes": 3 * GIB, "parts": {}}
    shown = explained(answer(course=[point, point | {"phase": "update", "allocated_bytes": GIB}]))
    assert "Traced with torch 2.13.0 for a cuda device, compute capability 8.9." in shown
    assert "499 MiB of context and kernels" in shown
    assert "1.0 GiB on top of the process figure" in shown
    assert "|micro-batch" in shown
    assert "|update" in shown


def test_each_of_several_devices_has_its_sentence() -> None:
    small = {"name": "RTX 3060 12GB", "kind": "cuda", "total_bytes": 12 * GIB}
    devices = [
        {"gpu": answer()["gpu"], "plan": candidate(8, 20 * GIB), "reserve_bytes": 21 * GIB, "knee": answer()["knee"]},
        {"gpu": small, "plan": None, "reserve_bytes": None, "knee": None, "least_bytes": 13 * GIB},
    ]
    shown = " ".join(text(answer(devices=devices)).split())
    assert "RTX 4090: 8 x 2, chunked loss; fits with 3.0 GiB to spare." in shown
    assert "The largest micro-batch that fits is 16; 8 is as fast." in shown
    assert "RTX 3060 12GB: does not fit; the least it needs is 13.0 GiB." in shown
