"""An estimate as people read it: the parts of the peak, the micro-batches that fit, the plan, and one sentence."""

from collections.abc import Mapping
from typing import Any

from scheduler.cli.terminal import Column, Line, table
from scheduler.units import format_bytes

Row = Mapping[str, Any]

_MEANS = {
    "activation_checkpointing": "activation checkpointing",
    "optimizer_offload": "optimizer offload",
    "chunked_loss": "chunked loss",
}
_CANDIDATES = (
    Column("micro_batch", "MICRO-BATCH", right=True),
    Column("accumulation", "ACCUMULATION", right=True),
    Column("allocated", "ALLOCATED", right=True),
    Column("reserved", "RESERVED", right=True),
    Column("process", "PROCESS", right=True),
    Column("fits", "FITS"),
    Column("means", "WITH", least=10),
)


def text(told: Row) -> str:
    """Lay the answer of `estimate --json` out for a person."""
    gpu, plan = told["gpu"], told["plan"]
    sections = [_parts(told["parts"])]
    if told["candidates"]:
        total = gpu["total_bytes"] if isinstance(gpu, Mapping) else None
        sections.append(table(_CANDIDATES, [_candidate(row, plan, total) for row in told["candidates"]]))
    sections.append(_sentence(told))
    return "\n\n".join(sections)


def _parts(parts: Mapping[str, int]) -> str:
    width = max((len(name) for name in parts), default=0)
    rows = [f"  {name:<{width}}  {format_bytes(size):>9}" for name, size in parts.items() if size]
    return "\n".join([f"At the peak, {format_bytes(sum(parts.values()))}:", *rows])


def _candidate(row: Row, plan: Row | None, total_bytes: int | None) -> Line:
    fits = row.get("fits", total_bytes is None or row["process_bytes"] <= total_bytes)
    chosen = plan is not None and all(row[key] == plan.get(key) for key in ("micro_batch", *_MEANS) if key in plan)
    cells = {
        "micro_batch": str(row["micro_batch"]),
        "accumulation": str(row.get("accumulation_steps", "")),
        "allocated": format_bytes(row["allocated_bytes"]),
        "reserved": format_bytes(row["reserved_bytes"]),
        "process": format_bytes(row["process_bytes"]),
        "fits": "chosen" if chosen else "yes" if fits else "no",
        "means": _means(row),
    }
    return Line(cells, {"fits": "green" if fits else "red"})


def _means(row: Row) -> str:
    return ", ".join(words for key, words in _MEANS.items() if row.get(key))


def _sentence(told: Row) -> str:
    gpu, plan = told["gpu"], told["plan"]
    name = gpu.get("name", "the device") if isinstance(gpu, Mapping) else str(gpu or "the device")
    total = gpu.get("total_bytes") if isinstance(gpu, Mapping) else None
    room = f" ({format_bytes(total)})" if total else ""
    if not told["fits"] or plan is None:
        return f"Does not fit {name}{room}, whatever the micro-batch." + _least(told)
    split = f"micro-batch {plan['micro_batch']} x {plan['accumulation_steps']} accumulation steps"
    means = f" with {_means(plan)}" if _means(plan) else ""
    spare = f", with {format_bytes(total - plan['process_bytes'])} to spare" if total else ""
    return f"Plan: {split}{means}.\nFits {name}{room}{spare}."


def _least(told: Row) -> str:
    least = min((row["process_bytes"] for row in told["candidates"]), default=None)
    return "" if least is None else f" The least it needs is {format_bytes(least)}."
