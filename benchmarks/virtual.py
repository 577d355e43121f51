"""The footprint against the trainer's own runs: on virtual devices each tensor is counted, so every peak is known.

Draws jobs at random, small, in all modes that the trainer has: predicted and measured peak of each; then, for a limit
drawn between the least and the most that a job can use, the largest micro-batch predicted to fit must run and the next
larger one be refused. Prints a line a failure, and a line a bar. `make bench-virtual` runs it, some minutes long.
"""

import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from benchmarks.measure import Bar, judged, machine
from scheduler.admission.wish import micro_batches
from trainer.config import Config, parse_config
from trainer.data.tokenizer import open_tokenizer
from trainer.errors import OutOfDeviceMemory
from trainer.model import loss
from trainer.model.minimind import MiniMind, initialise
from trainer.reporting.events import EventLog
from trainer.session import run_session
from trainer.stopping import StopRequest
from trainer.trace.footprint import PeakPredictor
from trainer.trace.rehearsal import Target

GIB = 1 << 30
CONTEXT_BYTES = 3 << 20
TARGET = Target(kind="virtual")
CONFIGURATIONS, LIMITS = 200, 100
SEQUENCES, VOCABULARY = (33, 65), 300  # 32 or 64 tokens go in, the room of a packed sequence: every row fills it
COUNTERS = ("allocated", "reserved", "process")


def main(configurations: int = CONFIGURATIONS, limits: int = LIMITS) -> int:
    print(machine())
    torch.set_num_threads(1)
    loss.CHUNK_ELEMENTS = VOCABULARY * 50  # several chunks even of a small batch
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        rows = written(Path(folder))
        errors = list(_errors(rows, configurations))
        kept = [_holds(rows, seed) for seed in range(limits)]
    print(
        f"{len(errors)} configurations: worst of the three counters, median {statistics.median(map(abs, errors)):.3f} %"
    )
    return judged(
        [
            Bar("worst_error_percent", max(map(abs, errors)), 1.0),
            Bar("worst_below_percent", max(0.0, -min(errors)), 1.0),
            Bar("limits_not_held_percent", 100 * kept.count(False) / len(kept), 2.0),
        ]
    )


def written(folder: Path) -> Path:
    """Rows that all fill the sequence, so that every micro-batch is as large as it can be."""
    draw = random.Random(5)
    texts = ["".join(draw.choices("abcdefghij klmnop", k=300)) for _ in range(48)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path.with_name("validation.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:9]))
    return path


def drawn(seed: int) -> dict[str, Any]:
    """Draw a small job of any mode; the seed names it."""
    draw = random.Random(seed)
    experts = draw.random() < 0.25
    lora = not experts and draw.random() < 0.2
    effective_batch = draw.choice([4, 6, 8, 12, 16])
    model: dict[str, Any] = {
        "hidden_size": draw.choice([32, 64, 96, 128]),
        "num_hidden_layers": draw.choice([1, 2, 3, 4]),
        "num_key_value_heads": draw.choice([1, 2, 4]),
        "qk_norm": draw.random() < 0.7,
        "tie_word_embeddings": draw.random() < 0.7,
    }
    if experts:
        model |= {"use_moe": True, "num_experts": draw.choice([2, 4]), "num_experts_per_tok": draw.choice([1, 2])}
        model |= {"num_shared_experts": draw.choice([0, 1])}
    dtype = draw.choice(["float32", "bfloat16", "bfloat16", "float16"])
    targets = draw.choice([["q_proj", "o_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]])
    return {
        "model": model,
        "max_seq_len": draw.choice(SEQUENCES),
        "train": {
            "dtype": dtype,
            "weights": draw.choice(["float32", "bfloat16"]) if dtype == "bfloat16" else "float32",
            "optimizer": "adamw" if dtype == "float16" else draw.choice(["adamw", "adamw8bit"]),
            "packing": draw.random() < 0.3,
            "batch_size": effective_batch,
            "grad_clip": draw.choice([0.0, 1.0]),
        },
        "adapters": {"lora_rank": draw.choice([4, 16]), "lora_targets": targets} if lora else None,
        "plan": {
            "micro_batch": draw.randint(1, effective_batch),
            "activation_checkpointing": draw.choice(["off", "selective", "full"]),
            "optimizer_offload": draw.random() < 0.5,
            "chunked_loss": draw.random() < 0.5,
        },
        "validates": draw.random() < 0.5,
    }


def configured(rows: Path, ledger: Path, draw: dict[str, Any], **plan: Any) -> Config:
    limit_bytes = plan.pop("limit_bytes", None)
    config = parse_config(
        {
            "kind": "pretrain",
            "data": {
                "path": str(rows),
                "max_seq_len": draw["max_seq_len"],
                "cache": str(rows.with_name("cache")),
                **({"validation": str(rows.with_name("validation.jsonl"))} if draw["validates"] else {}),
            },
            "model": {"vocab_size": VOCABULARY, "num_attention_heads": 4, **draw["model"]},
            "train": {"accumulation_steps": 1, "max_steps": 3, "save_interval": 2, **draw["train"]},
            "plan": draw["plan"] | plan,
            "device": {
                "kind": "virtual",
                "ledger": str(ledger),
                "total_bytes": GIB,
                "context_bytes": CONTEXT_BYTES,
                **({} if limit_bytes is None else {"limit_bytes": limit_bytes}),
            },
            "on_out_of_memory": "exit",
        }
    )
    return config if draw["adapters"] is None else _adapting(config, draw["adapters"], rows.parent)


def _adapting(config: Config, adapters: dict[str, Any], folder: Path) -> Config:
    """Turn a job into one of LoRA, on rows of pretraining: their tokens are all targets, as a prediction has them."""
    base = MiniMind(config, torch.device("cpu"))
    initialise(base, seed=1)
    save_file(dict(base.named_parameters()), folder / "base.safetensors")
    open_tokenizer(config, folder)
    train = msgspec.structs.replace(config.train, method="lora", **adapters)
    return msgspec.structs.replace(config, train=train, init_from=str(folder / "base.safetensors"))


def _errors(rows: Path, count: int) -> Iterator[float]:
    """The signed error of each configuration's worst counter, in per cent."""
    for seed in range(count):
        config = configured(rows, rows.parent / "ledger", drawn(seed))
        forecast, took = PeakPredictor(config, TARGET).candidate(config.micro_batch), measured(config)
        told = (
            forecast.outcome.allocated_bytes,
            forecast.outcome.reserved_bytes,
            forecast.process_bytes + CONTEXT_BYTES,
        )
        found = [100 * (one / took[name] - 1) for one, name in zip(told, COUNTERS, strict=True)]
        worst = max(found, key=abs)
        if abs(worst) > 1:
            print(f"configuration {seed}: {dict(zip(COUNTERS, found, strict=True))}: {drawn(seed)}")
        yield worst


def _holds(rows: Path, seed: int) -> bool:
    """Say whether the largest micro-batch that fits a limit runs there, and the next one is refused."""
    draw = drawn(seed + 1000)
    mode = PeakPredictor(configured(rows, rows.parent / "ledger", draw), TARGET)
    need = {
        size: mode.candidate(size).process_bytes + CONTEXT_BYTES for size in micro_batches(draw["train"]["batch_size"])
    }
    sizes = [a for a, b in zip(need, list(need)[1:], strict=False) if need[a] < need[b]]
    if not sizes:
        return True  # no two of its sizes differ in what they need
    fits = random.Random(seed).choice(sizes)
    following = next(size for size in need if size > fits)
    limit_bytes = random.Random(seed).randint(need[fits], need[following] - 1)
    held = [
        _runs(configured(rows, rows.parent / "ledger", draw, micro_batch=size, limit_bytes=limit_bytes)) is expected
        for size, expected in ((fits, True), (following, False))
    ]
    if not all(held):
        print(f"limit {seed}: {fits} and {following} of {need}, {limit_bytes}: {held}: {draw}")
    return all(held)


def _runs(config: Config) -> bool:
    try:
        measured(config)
    except OutOfDeviceMemory:
        return False
    return True


def measured(config: Config) -> dict[str, int]:
    """Run the trainer's loop and read the peaks that it reports."""
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        run_dir = Path(folder)
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            run_session(config, run_dir, EventLog(run_dir / "events.jsonl"), StopRequest())
        last = json.loads((run_dir / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished", last
    return {name: last[f"{name}_peak_bytes"] for name in COUNTERS}


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
