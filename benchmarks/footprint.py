"""How far the footprint is from what was measured on GPUs: every row of `measured_peaks.csv`, without a GPU.

A row is a published run: its loop (`benchmarks/loops`) is traced on the meta device, replayed through the allocator's
model and compared with the measurement by the same counter. Beside it two baselines on the same rows: a closed form,
and torch's own MemTracker. Prints a line a row, a table a counter, and a line a bar. `make bench-footprint` runs it.
"""

import contextlib
import csv
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # before anything is replaced: its import looks at all of torch

from benchmarks.loops import gpt2, hugging_face, minimind, tinyllama
from benchmarks.measure import Bar, judged, machine
from scheduler.devices.catalogue import find
from scheduler.footprint.context import KERNELS_BYTES, context_bytes
from trainer.entry.log import Log
from trainer.entry.replay import Outcome, replay, survives
from trainer.entry.trace import Build, trace

MIB = 1 << 20
TABLE = Path(__file__).with_name("measured_peaks.csv")
UNREPRODUCIBLE = {
    "xmem-MC-be2d": "the same configuration took 3,014 MiB in another run: shorter first batches, of unknown lengths,"
    " had fragmented the cache",
}
CAPABILITIES = {"A100": "8.0", "RTX 3060": "8.6", "RTX 4060": "8.9", "A10G": "8.6", "L20": "8.9", "RTX 4090D": "8.9"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, and the loop that it is of."""

    id: str
    counter: str  # allocated | reserved | process | increase: of a device's use, its context being there before
    measured_mib: float
    capability: str
    loop: Build
    closed_form: Callable[[], float]  # MiB
    must_not_fit: str | None = None  # a GPU that it ran out of


def main() -> int:
    print(f"{machine()}, torch {torch.__version__}\n")
    print(
        f"{'row':<26}{'counter':<11}{'measured':>10}{'predicted':>11}{'error %':>9}{'closed %':>10}{'MemTracker %':>14}"
    )
    rows = list(_rows())
    found = [_traced(row) for row in rows]
    kept = [one for one in found if one[0].must_not_fit is None and one[0].id not in UNREPRODUCIBLE]
    bars = [bar for counter in dict.fromkeys(row.counter for row, *_ in kept) for bar in _counter(counter, kept)]
    bars += [Bar(f"{row.id}_fits", float(_fits(row, log)), 0) for row, _, log, _ in found if row.must_not_fit]
    bars += _article()
    for name, reason in UNREPRODUCIBLE.items():
        print(f"not reproduced: {name}: {reason}")
    return judged(bars)


def _traced(row: Row) -> tuple[Row, Outcome, Log, float]:
    """Work a row out, and print its line."""
    log = trace(row.loop, capability=row.capability)
    outcome, tracked = replay(log), math.nan if row.must_not_fit else _mem_tracker(row)
    told = "" if row.must_not_fit is None else f"  out of memory on {row.must_not_fit}"
    print(
        f"{row.id:<26}{row.counter:<11}{row.measured_mib:>10.1f}{_predicted(row, outcome):>11.1f}"
        f"{_error(row, _predicted(row, outcome)):>9.2f}{_error(row, row.closed_form()):>10.1f}"
        f"{_error(row, tracked):>14.1f}{told}",
        flush=True,
    )
    return row, outcome, log, tracked


def _counter(counter: str, found: list[tuple[Row, Outcome, Log, float]]) -> Iterator[Bar]:
    rows = [one for one in found if one[0].counter == counter]
    print(f"\n{counter}, {len(rows)} rows" + " " * 12 + "median |%|   95th   worst below   worst above")
    ways: Mapping[str, Callable[[tuple[Row, Outcome, Log, float]], float]] = {
        "this": lambda one: _error(one[0], _predicted(one[0], one[1])),
        "closed form": lambda one: _error(one[0], one[0].closed_form()),
        "MemTracker": lambda one: _error(one[0], one[3]),
    }
    for name, error in ways.items():
        errors = sorted(error(one) for one in rows)
        sizes = sorted(map(abs, errors))
        median, high = statistics.median(sizes), _quantile(sizes, 0.95)
        below, above = max(0.0, -errors[0]), max(0.0, errors[-1])
        print(f"  {name:<26}{median:>10.2f}{high:>9.2f}{below:>12.2f}{above:>14.2f}")
        if name == "this":
            yield Bar(f"{counter}_median_percent", median, 0.5)
            yield Bar(f"{counter}_95th_percent", high, 2.0)
            yield Bar(f"{counter}_worst_below_percent", below, 3.0)
    print()


def _quantile(sizes: list[float], share: float) -> float:
    """Interpolate between the two sorted values nearest to that share."""
    place = share * (len(sizes) - 1)
    low = int(place)
    high = min(low + 1, len(sizes) - 1)
    return sizes[low] + (sizes[high] - sizes[low]) * (place - low)


def _predicted(row: Row, outcome: Outcome) -> float:
    if row.counter == "allocated":
        return outcome.allocated_bytes / MIB
    beside = {"reserved": 0, "increase": KERNELS_BYTES, "process": context_bytes("cuda", row.capability)}[row.counter]
    return (outcome.reserved_bytes + beside) / MIB


def _error(row: Row, predicted: float) -> float:
    return 100 * (predicted / row.measured_mib - 1)


def _fits(row: Row, log: Log) -> bool:
    assert row.must_not_fit is not None
    entry = find(row.must_not_fit)
    return survives(log, entry.total_bytes - context_bytes("cuda", entry.capability))


def _article() -> Iterator[Bar]:
    """A 24 GB card, MiniMind's whole-logits loop, batch 128, length 512: 12 layers do not fit, 8 do at 20 to 23.

    In the GB that the card is sold by, which are GiB.
    """
    card = find("RTX 4090 D")
    room = card.total_bytes - context_bytes("cuda", card.capability)
    deep, shallow = (
        trace(partial(minimind.of_february_2025, 128, 512, layers, 1), capability="8.9") for layers in (12, 8)
    )
    process_bytes = replay(shallow).reserved_bytes + context_bytes("cuda", "8.9")
    process_gb = process_bytes / (1 << 30)
    told = f"{process_gb:.1f} GiB ({process_bytes / 1e9:.1f} GB)"
    print(f"8 layers of 512, batch 128, length 512, on a {card.name}: {told}\n")
    yield Bar("12_layers_fit_24_gb", float(survives(deep, room)), 0)
    yield Bar("8_layers_do_not_fit_24_gb", float(not survives(shallow, room)), 0)
    yield Bar("8_layers_off_20_to_23_gb", max(0.0, 20 - process_gb, process_gb - 23), 0)


def _mem_tracker(row: Row) -> float:
    """Peak in MiB by torch's MemTracker over the same steps, devices and kernels translated for it as for us."""
    from torch.distributed._tools.mem_tracker import MemTracker

    peaks: list[float] = []

    def tracked() -> tuple[Any, Callable[[], None]]:
        model, step = row.loop()
        tracker = MemTracker()
        tracker.track_external(model)

        def one() -> None:
            with tracker, contextlib.suppress(NotImplementedError):  # of a second forward pass in one step
                step()
            tracker.reset_mod_stats()
            held = tracker.get_tracker_snapshot("peak")
            peaks.append(sum(kinds["Total"] for device, kinds in held.items() if device.type != "cpu") / MIB)

        return model, one

    trace(tracked, capability=row.capability, updates=2)  # its peak is there in the second, and it is slow
    return max(peaks)


def _rows() -> Iterator[Row]:
    with TABLE.open(newline="") as file:
        for told in csv.DictReader(file):
            yield _row(told)


def _row(told: Mapping[str, str]) -> Row:
    loop, state_bytes, half = _loop(told)
    batch, length = int(told["micro_batch"]), _length(told["seq"])
    return Row(
        id=told["id"],
        counter=_counter_of(told["counter"]),
        measured_mib=float(told["measured_mib"]),
        capability=next((c for name, c in CAPABILITIES.items() if name in told["gpu"]), "7.5"),
        loop=loop,
        closed_form=partial(_closed_form, told, batch=batch, length=length, state_bytes=state_bytes, half=half),
        must_not_fit={"minimind-D1": "RTX 4090 D", "minimind-D3": "T4"}.get(told["id"]),
    )


def _length(told: str) -> int:
    """Read `<=512 (pad to longest)` as 512: the peak is the longest batch's."""
    return int("".join(c for c in told.partition("(")[0] if c.isdigit()))


def _counter_of(told: str) -> str:
    names = {"max minus start": "increase", "reserved": "reserved", "smi": "process"}
    return next((name for words, name in names.items() if words in told), "allocated")


def _loop(told: Mapping[str, str]) -> tuple[Build, int, bool]:
    """The loop of a row, its bytes of state a parameter, and whether its activations are half-precision."""
    batch, length = int(told["micro_batch"]), _length(told["seq"])
    layers, ranks = int(told["layers"]), int(told["ddp_ranks"])
    kind, number = told["id"].split("-", 1)
    if kind == "rasbt":
        plain = number == "0"
        return partial(gpt2.loop, batch, length, fused=not plain, kept_mask=plain), 16, False
    if kind == "xmem":
        return partial(hugging_face.gpt2, batch, length, layers), 16, False
    if kind == "litgpt":
        return partial(tinyllama.loop, batch, length), 8, True
    function, state, half = {
        "A": (minimind.sft_probe, 16, True),
        "C": (minimind.mean_of_logits if number in ("C3", "C4") else minimind.pure_bfloat16, 16, False),
        "D": (minimind.of_february_2025, 16, True),
    }[number[0]]
    if number in ("A10", "A11"):
        function = minimind.pretrain_probe
    if function is minimind.pure_bfloat16:
        state, half = 8, True
    if number == "D3":
        function = minimind.preferences_of_2025
    return partial(function, batch, length, layers, ranks), state, half


def _closed_form(told: Mapping[str, str], *, batch: int, length: int, state_bytes: int, half: bool) -> float:
    """Weights, gradients, two moments, the activations of Korthikanti et al. (2022) without recomputation, logits."""
    layers, hidden, heads = (int(told[name]) for name in ("layers", "hidden", "heads"))
    inner, vocabulary, groups = (int(told[name]) for name in ("intermediate", "vocab", "kv_heads"))
    gated = 2 if groups == heads and told["id"].split("-")[0] in ("rasbt", "xmem") else 3
    each = hidden * hidden * (2 + 2 * groups / heads) + gated * hidden * inner
    parameters = layers * each + vocabulary * hidden
    scores = 5 * heads * length / hidden if "scores" in told["attention"] else 0
    activations = layers * length * batch * hidden * (34 + scores) * (1 if half else 2)
    logits = batch * length * vocabulary * (2 if half else 4) * 2
    return (parameters * state_bytes + activations + logits) / MIB


if __name__ == "__main__":
    sys.exit(main())
