"""The trainer against a loop that works as MiniMind's programs do: speed, peak memory, and the loss it reaches.

Same model (minimind-3 halved: half as wide, half as deep, heads as wide), same rows, same process, one thread, turn by
turn. Speed is target tokens by CPU time of the fastest round of each side, which a busy machine blurs least. The step
is timed as it runs on a GPU, whose allocator counts by itself; the counting of a plain CPU device costs up to a tenth
more; what is compiled is compiled before. Memory is the allocator's count on a virtual device, of rows that fill the
sequence: the reference takes all rows of a step at once, the trainer, whose micro-batch is free, half of them; what it
takes with all at once is told too. Prints tables, then a line a bar. `make bench-train` runs it.

Lengths of rows: MiniMind's pretrain data has targets in 31 % of the slots at 768, the length upstream names for its
small file, and cuts 4 % of the rows; at 380 it is 57 % and 14 %. `LENGTHS` is such a spread. For SFT no such count is
known: the same shape, with the mean that the size of `sft_t2t_mini` tells (1.6 GB, 905,718 rows: about 340 tokens), and
the last three fifths of a row as the assistant's.
"""

import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import MIB, Bar, judged, machine
from benchmarks.reference import Loop
from examples.demo import corpus
from trainer.config import Config, parse_config
from trainer.data.batches import Row, collate
from trainer.data.run_data import open_data
from trainer.data.tokenizer import open_tokenizer
from trainer.loop import learning_rate
from trainer.memory.accounted import AccountedDevice
from trainer.memory.cpu import CpuDevice
from trainer.memory.virtual import VirtualDevice
from trainer.model.compiled import compile_blocks
from trainer.model.minimind import MiniMind, initialise
from trainer.steps.optimizer import build_optimizer
from trainer.steps.step import evaluation_loss, train_step
from trainer.steps.transfer import stream

ROUNDS = 5
ROWS, MICRO_BATCH = 8, 4  # of a step: the reference takes all at once
HALVED = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
SHARES, LENGTHS = (0.0, 0.865, 0.93, 0.961, 1.0), (8, 372, 440, 768, 768)  # of rows, no longer than
SFT_LONGER, SFT_ASSISTANT = 1.42, 0.6
DEMO = {**HALVED, "hidden_size": 128, "vocab_size": 2048}
DEMO_STEPS, DEMO_BATCH, DEMO_RATE, HELD_OUT = 40, 16, 2e-3, 64
LOSS_TOLERANCE = 1.002  # the two weigh the tokens of a step differently, so they end a little apart, either way


class Work(NamedTuple):
    name: str
    max_seq_len: int
    full: bool = False
    sft: bool = False
    at_least: float | None = None
    compiled: bool = False


FULL = Work("no padding", 340, full=True, at_least=1.15)
WORKS = (
    Work("pretrain at 768", 768, at_least=2.0),
    Work("SFT at 768", 768, sft=True, at_least=2.0),
    FULL,
    Work("pretrain at 340", 340),
    Work("no padding, compiled", 340, full=True, compiled=True),
)


class Side(Protocol):
    def step(self, rows: Sequence[Row], rate: float) -> None: ...


class Ours:
    """The trainer's own step, on a device of its own."""

    def __init__(self, config: Config, device: AccountedDevice, weights: Mapping[str, Tensor]) -> None:
        self.config = config
        self.device = device
        self.model = MiniMind(config, device.torch_device)
        self.model.load_state_dict(weights)
        if config.train.compile:
            compile_blocks(self.model, config, device.torch_device)
        self.optimizer = build_optimizer(self.model, config)

    def step(self, rows: Sequence[Row], rate: float) -> None:
        self.optimizer.learning_rate = rate
        train_step(
            self.model,
            self.optimizer,
            stream(rows, self.config.micro_batch, self.config.max_seq_len, self.device),
            target_tokens=sum(row.targets for row in rows),
            grad_clip=self.config.train.grad_clip,
            chunked_loss=True,
        )


def main() -> int:
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # as the trainer does: no search through all of torch in the middle of a step, on either side
    print(f"minimind-3 halved, {ROWS} rows a step, bfloat16, {ROUNDS} interleaved rounds; {machine()}\n")
    bars = [*_speed_bars(), *_memory_bars()]
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        bars.append(_loss_bar(Path(folder)))
    return judged(bars)


def _speed_bars() -> Iterator[Bar]:
    print(f"{'target tokens a CPU second':<28}{'targets':>9}{'reference':>11}{'trainer':>9}{'times':>7}")
    for work in WORKS:
        share, speeds = _speeds(work)
        theirs, ours = (max(side) for side in zip(*speeds, strict=True))
        times = ours / theirs
        print(f"{work.name:<28}{share:>9.0%}{theirs:>11,.0f}{ours:>9,.0f}{times:>7.2f}", flush=True)
        if work.at_least:
            yield Bar(f"{work.name.replace(' ', '_').lower()}_times", times, work.at_least, at_least=True)


def _speeds(work: Work) -> tuple[float, list[tuple[float, float]]]:
    """Give the share of the slots that are targets, and in each round the reference's speed and the trainer's."""
    draw = np.random.default_rng(1)
    config = _config(HALVED, work.max_seq_len, "bfloat16", ROWS, MICRO_BATCH, compiled=work.compiled)
    weights = _weights(config)
    device = CpuDevice()
    ours, reference = Ours(config, device, weights), _reference(config, weights)
    speeds, shares = [], []
    for turn in range(ROUNDS + 1):  # the first one warms up
        rows = rows_of(work, draw)
        targets = sum(row.targets for row in rows)
        own = _cpu_seconds(ours, rows)
        theirs = _cpu_seconds(reference, rows)
        if turn:
            speeds.append((targets / theirs, targets / own))
            shares.append(targets / (ROWS * work.max_seq_len))
    return statistics.mean(shares), speeds


def _memory_bars() -> Iterator[Bar]:
    print(f"\n{'peak allocated, MiB':<37}{'reference':>11}{'trainer':>9}{'share':>7}")
    draw = np.random.default_rng(2)
    rows = rows_of(FULL, draw)
    for dtype, micro_batch in itertools.product(("float32", "bfloat16"), (ROWS, MICRO_BATCH)):
        theirs, ours = _peaks(rows, _config(HALVED, FULL.max_seq_len, dtype, ROWS, micro_batch))
        named = f"{ROWS} rows of 340, {dtype}, {micro_batch} at once"
        print(f"{named:<37}{theirs / MIB:>11,.0f}{ours / MIB:>9,.0f}{ours / theirs:>7.2f}")
        if micro_batch == MICRO_BATCH:
            yield Bar(f"peak_memory_{dtype}_share", ours / theirs, 0.5)


def _peaks(rows: Sequence[Row], config: Config) -> tuple[int, int]:
    weights = _weights(config)
    theirs = _peak_bytes(rows, lambda _: _reference(config, weights))
    return theirs, _peak_bytes(rows, lambda device: Ours(config, device, weights))


def _peak_bytes(rows: Sequence[Row], side: Callable[[AccountedDevice], Side]) -> int:
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        device = VirtualDevice(Path(folder), total_bytes=16 << 30)
        with device.accounting():
            one = side(device)
            for _ in range(2):  # Adam's moments are there from the second on
                one.step(rows, 1e-4)
        return device.peaks().allocated_bytes


def _loss_bar(folder: Path) -> Bar:
    """Train both on the demo's text from the same weights over the same rows, and compare what they hold out."""
    corpus.write_pretrain(folder / "rows.jsonl")
    config = _config(DEMO, 128, "float32", DEMO_BATCH, DEMO_BATCH // 4, folder)
    data = open_data(config, folder, open_tokenizer(config, folder), lambda: None)
    weights = _weights(config)
    device = CpuDevice()
    ours, reference = Ours(config, device, weights), _reference(config, weights, batch_size=DEMO_BATCH // 2)
    for step in range(1, DEMO_STEPS + 1):
        rows, rate = data.rows_of_step(step - 1), learning_rate(DEMO_RATE, step, DEMO_STEPS)
        ours.step(rows, rate)
        reference.step(rows, rate)
    held_out = [data.validation_file[index] for index in data.validation_rows[:HELD_OUT]]
    before = _loss(ours, held_out, weights)
    theirs, own = _loss(ours, held_out, reference.model.state_dict()), _loss(ours, held_out, ours.model.state_dict())
    print(
        f"\nloss on {HELD_OUT} held-out rows of the demo's text, {DEMO_STEPS} steps of {DEMO_BATCH} rows: at first ",
        end="",
    )
    print(f"{before:.4f}, reference {theirs:.4f}, trainer {own:.4f}")
    return Bar("loss_over_reference", own / theirs, LOSS_TOLERANCE)


def _loss(ours: Ours, rows: Sequence[Row], weights: Mapping[str, Tensor]) -> float:
    ours.model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()})
    total = evaluation_loss(ours.model, collate(rows, ours.config.max_seq_len), chunked_loss=True)
    return float(total) / sum(row.targets for row in rows)


def _reference(config: Config, weights: Mapping[str, Tensor], batch_size: int | None = None) -> Loop:
    return Loop(
        config.model,
        weights,
        max_seq_len=config.max_seq_len,
        batch_size=batch_size or config.effective_batch,
        dtype=config.train.dtype,
    )


def _cpu_seconds(side: Side, rows: Sequence[Row]) -> float:
    began = time.process_time()
    side.step(rows, 1e-4)
    return time.process_time() - began


def rows_of(work: Work, draw: np.random.Generator) -> list[Row]:
    """Draw the rows of a step; each step has the whole spread of lengths."""
    spread = np.interp((np.arange(ROWS) + 0.5) / ROWS, SHARES, LENGTHS) * (SFT_LONGER if work.sft else 1)
    lengths = np.full(ROWS, work.max_seq_len) if work.full else np.minimum(spread, work.max_seq_len).astype(int)
    return [_row(int(length), draw, sft=work.sft) for length in draw.permutation(lengths)]


def _row(length: int, draw: np.random.Generator, *, sft: bool) -> Row:
    place = np.arange(length)
    is_target = place >= length * (1 - SFT_ASSISTANT) if sft else place > 0
    return Row(tokens=draw.integers(3, 6400, length).astype(np.uint16), is_target=is_target)


def _config(
    model: Mapping[str, int],
    max_seq_len: int,
    dtype: str,
    rows: int,
    micro_batch: int,
    folder: Path = Path(),
    *,
    compiled: bool = False,
) -> Config:
    return parse_config(
        {
            "kind": "pretrain",
            "model": model,
            "data": {"path": str(folder / "rows.jsonl"), "max_seq_len": max_seq_len, "validation": 0.05},
            "train": {
                "dtype": dtype,
                "batch_size": rows,
                "accumulation_steps": 1,
                "max_steps": 1000,
                "compile": compiled,
            },
            "plan": {"micro_batch": micro_batch},
        }
    )


def _weights(config: Config) -> dict[str, Tensor]:
    model = MiniMind(config, torch.device("cpu"))
    initialise(model, config.train.seed)
    return dict(model.state_dict())


if __name__ == "__main__":
    sys.exit(main())
