"""What each means against memory saves, and what it costs: the table of `docs/memory.md`.

Memory is the footprint of minimind-3, pretraining in bfloat16 on 340 tokens, on a GPU of compute capability 8.9 without
its context: MiB allocated at the peak, with 32 of MiniMind's 256 rows at once and with 8, and what weights,
gradients and optimizer are of the latter. Time is CPU time of a step of the model halved, 3 rows of 340, one thread:
of forward and backward, and of the update, each the fastest of some interleaved turns, against the same with no means
at all. So it tells of arithmetic, not of copies. That the footprint is right is checked on the way: the halved model's
steps, on a virtual device, must peak where it says. `make bench-memory` runs it.
"""

import gc
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.measure import MIB, Bar, judged, machine
from benchmarks.train import HALVED, Work, rows_of
from trainer.config import Config, parse_config
from trainer.data.batches import Row
from trainer.memory.accounted import AccountedDevice
from trainer.memory.cpu import CpuDevice
from trainer.memory.virtual import VirtualDevice
from trainer.model.lora import adapt, initialise_adapters
from trainer.model.minimind import MiniMind, initialise
from trainer.reporting.results import Results
from trainer.steps.optimizer import build_optimizer
from trainer.steps.step import train_step
from trainer.steps.transfer import stream
from trainer.trace.footprint import PeakPredictor
from trainer.trace.rehearsal import Target

TURNS = 6
LENGTH, ROWS = 340, 3
GPU = Target(kind="cuda", capability="8.9")
VIRTUAL = Target(kind="virtual")
STATES = ("weights", "gradients", "optimizer")


class Means(NamedTuple):
    name: str
    plan: Mapping[str, Any] = {}
    train: Mapping[str, Any] = {}
    timed: bool = True

    def config(self, model: Mapping[str, int], micro_batch: int, accumulation_steps: int = 1) -> Config:
        adapts = self.train.get("method") == "lora"
        return parse_config(
            {
                "kind": "sft" if adapts else "pretrain",
                "model": dict(model),
                "data": {"path": "", "max_seq_len": LENGTH},
                "train": {
                    "batch_size": micro_batch,
                    "accumulation_steps": accumulation_steps,
                    "max_steps": 1000,
                    **self.train,
                },
                "plan": {"micro_batch": micro_batch, **self.plan},
            }
        )


HALF, EIGHT = {"weights": "bfloat16"}, {"optimizer": "adamw8bit"}
FULL, OFFLOAD = {"activation_checkpointing": "full"}, {"optimizer_offload": True}
LORA = {"method": "lora"}
ALL_MEANS = (
    Means("none but the chunked loss"),
    Means("chunked_loss: off", {"chunked_loss": False}),
    Means("activation_checkpointing: selective", {"activation_checkpointing": "selective"}),
    Means("activation_checkpointing: full", FULL),
    Means("optimizer_offload", OFFLOAD),
    Means("full, optimizer_offload", FULL | OFFLOAD, timed=False),
    Means("optimizer: adamw8bit", {}, EIGHT),
    Means("weights: bfloat16", {}, HALF),
    Means("weights: bfloat16, adamw8bit", {}, HALF | EIGHT),
    Means("weights: bfloat16, adamw8bit, full", FULL, HALF | EIGHT, timed=False),
    Means("weights: bfloat16, offload, full", FULL | OFFLOAD, HALF, timed=False),
    Means("method: lora", {}, LORA),
    Means("method: lora, weights: bfloat16", {}, LORA | HALF),
    Means("method: lora, weights: bfloat16, full", FULL, LORA | HALF, timed=False),
)


class Side:
    """The trainer's own steps with some means, on a device."""

    def __init__(self, config: Config, device: AccountedDevice) -> None:
        self.config = config
        self.device = device
        self.model = MiniMind(config, device.torch_device)
        with device.host():
            initialise(self.model, 1)
        if config.adapts:
            adapt(self.model, config.train)
            with device.host():
                initialise_adapters(self.model, 1)
        self.optimizer = build_optimizer(self.model, config, device.host)
        self.results = Results(device.torch_device, scaled=False)
        self.began: dict[str, float] = {}

    def step(self, number: int, rows: list[Row]) -> None:
        """Take a step, noting when each phase of it began."""
        self.began.clear()
        result = train_step(
            self.model,
            self.optimizer,
            stream(rows, self.config.micro_batch, LENGTH, self.device),
            target_tokens=sum(row.targets for row in rows),
            grad_clip=1.0,
            chunked_loss=self.config.plan.chunked_loss,
            enter=lambda phase: self.began.update({phase: time.process_time()}),
        )
        self.results.add(number, result)


def main() -> int:
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # as the trainer does: no search through all of torch in the middle of a step
    print(f"minimind-3, MiB at the peak; the time of a step of it halved; {machine()}\n")
    rows = rows_of(Work("", LENGTH, full=True), np.random.default_rng(1))[:ROWS]
    times = _times(rows)
    usual = times[ALL_MEANS[0].name]
    print(f"{'means':<40}{'32 rows':>9}{'8 rows':>9}{'states':>9}{'pass':>7}{'update':>8}")
    wrong = 0
    for means in ALL_MEANS:
        mode = PeakPredictor(means.config({}, 32, 8), GPU)
        large, small = mode.outcome(32), mode.outcome(8)
        states = sum(small.parts[name] for name in STATES)
        shown = (large.allocated_bytes, small.allocated_bytes, states)
        cells = "".join(f"{size / MIB:>9,.0f}" for size in shown)
        if means.timed:
            passes, update = (one / none for one, none in zip(times[means.name], usual, strict=True))
            cells += f"{passes:>7.2f}{update:>8.2f}"
        print(f"{means.name:<40}{cells}", flush=True)
        wrong += _is_wrong(means, rows)
    return judged([Bar("footprints_not_met", wrong, 0)])


def _times(rows: list[Row]) -> dict[str, tuple[float, float]]:
    """Time the passes and the update of a step with each means."""
    sides = {means.name: Side(means.config(HALVED, ROWS), CpuDevice()) for means in ALL_MEANS if means.timed}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):  # the first one warms up
        for name, side in sides.items():
            side.step(turn, rows)
            began = side.began
            if turn:
                found[name].append((began["clip"] - began["forward"], began["idle"] - began["clip"]))
    return {name: (min(one for one, _ in both), min(other for _, other in both)) for name, both in found.items()}


def _is_wrong(means: Means, rows: list[Row]) -> bool:
    """Say whether the steps of the halved model take other peaks than was foretold."""
    config = means.config(HALVED, ROWS)
    foretold = PeakPredictor(config, VIRTUAL).outcome(ROWS)
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        device = VirtualDevice(Path(folder), total_bytes=16 << 30)
        with device.accounting():
            side = Side(config, device)
            for turn in range(3):
                side.step(turn, rows)
        peaks = device.peaks()
    told, met = (
        (foretold.allocated_bytes, foretold.reserved_bytes),
        (peaks.allocated_bytes, peaks.reserved_bytes),
    )
    if told != met:
        print(f"  foretold {told}, met {met}")
    return told != met


if __name__ == "__main__":
    sys.exit(main())
