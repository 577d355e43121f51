"""An estimate as people read it: the parts of the peak, the micro-batches that fit, the plan, and one sentence."""

from collections.abc import Mapping
from typing import Any

from scheduler.cli.memoryplot import draw
from scheduler.cli.terminal import Column, Line, table, width, wrap
from scheduler.jobs.means import in_words
from scheduler.units import format_bytes

Row = Mapping[str, Any]

_MEANS = ("activation_checkpointing", "optimizer_offload", "chunked_loss", "sharding", "tensor_parallel")
_SHORTER = (("activation checkpointing", "checkpointing"), ("optimizer offload", "offload"))
_CANDIDATES = (
    Column("micro_batch", "MICRO-BATCH", right=True),
    Column("accumulation", "ACCUMULATION", right=True, drop=1),
    Column("allocated", "ALLOCATED", right=True, drop=2),
    Column("reserved", "RESERVED", right=True),
    Column("process", "PROCESS", right=True),
    Column("fits", "FITS"),
    Column("means", "WITH", least=36),
)


def text(estimate: Row) -> str:
    """Lay the answer of `estimate --json` out for a person."""
    shown = _worth_showing(estimate)
    hidden = len(estimate["candidates"]) - len(shown)
    sections = [_parts(estimate), table(_CANDIDATES, [_candidate(row, estimate["plan"]) for row in shown])]
    if hidden:
        what = "with other means of saving memory" if estimate["plan"] else "that don't fit either"
        sections[-1] += f"\n({hidden} more {what}: --json)"
    if "devices" in estimate:
        sections.append("\n".join(map(_verdict, estimate["devices"])))
    return "\n\n".join([*sections, _sentence(estimate)])


def explained(estimate: Row) -> str:
    """The same with what it rests on, and the course of a step."""
    why, gpu = estimate["explain"], estimate["gpu"]
    capability = f"compute capability {why['capability']}" if why["capability"] else "no compute capability given"
    lines = [
        f"Traced with torch {why['torch']} for a {gpu['kind']} device, {capability}.",
        f"Outside the allocator: {format_bytes(why['context_bytes'])} of context and kernels"
        + (f", {format_bytes(why['nccl_bytes'])} of it NCCL's." if why["nccl_bytes"] else "."),
        f"Added for what earlier attempts took on this machine: {format_bytes(why['correction_bytes'])}.",
        f"The margin of a reservation: {format_bytes(why['margin_bytes'])} on top of the process figure.",
    ]
    picture = draw(estimate["course"], width=width())
    return "\n\n".join([text(estimate), "One step of what is shown:\n\n" + picture, "\n".join(lines)])


def _worth_showing(estimate: Row) -> list[Row]:
    """The candidates with the plan's means; where nothing fits, the smallest with each of the means."""
    plan, candidates = estimate["plan"], estimate["candidates"]
    if plan is not None:
        return [row for row in candidates if all(row.get(key) == plan.get(key) for key in _MEANS)]
    smallest: dict[tuple[object, ...], Row] = {}
    for row in sorted(candidates, key=lambda row: int(row["process_bytes"]), reverse=True):
        smallest[tuple(row.get(key) for key in _MEANS)] = row
    return list(smallest.values())


def _parts(estimate: Row) -> str:
    parts: Mapping[str, int] = estimate["parts"]
    width = max(map(len, parts))
    rows = [f"  {name:<{width}}  {format_bytes(size):>9}" for name, size in parts.items() if size]
    head = f"{estimate['parameters']:,} parameters. At the peak, {format_bytes(sum(parts.values()))}:"
    return "\n".join([head, *rows])


def _candidate(row: Row, plan: Row | None) -> Line:
    chosen = plan is not None and row["micro_batch"] == plan["micro_batch"]
    cells = {
        "micro_batch": str(row["micro_batch"]),
        "accumulation": str(row["accumulation_steps"]),
        "allocated": format_bytes(row["allocated_bytes"]),
        "reserved": format_bytes(row["reserved_bytes"]),
        "process": format_bytes(row["process_bytes"]),
        "fits": "chosen" if chosen else "yes" if row["fits"] else "no",
        "means": _short(", ".join(in_words(row))),
    }
    return Line(cells, {"fits": "green" if row["fits"] else "red"})


def _short(means: str) -> str:
    for long, short in _SHORTER:
        means = means.replace(long, short)
    return means


def _verdict(estimate: Row) -> str:
    """Say in a line what would become of the job on one of several devices."""
    gpu, plan = estimate["gpu"], estimate["plan"]
    if plan is None:
        return "\n".join(
            wrap(f"{gpu['name']}: does not fit; the least it needs is {format_bytes(estimate['least_bytes'])}.", 0)
        )
    used = "".join(f", {_short(means)}" for means in in_words(plan))
    spare = format_bytes(gpu["total_bytes"] - estimate["reserve_bytes"])
    split = f"{plan['micro_batch']} x {plan['accumulation_steps']}{used}"
    return "\n".join(wrap(f"{gpu['name']}: {split}; fits with {spare} to spare. {_knee(estimate['knee'], plan)}", 0))


def _sentence(estimate: Row) -> str:
    gpu, plan = estimate["gpu"], estimate["plan"]
    total = format_bytes(gpu["total_bytes"])
    place = gpu["name"] if total in gpu["name"] else f"{gpu['name']} ({total})"
    if plan is None:
        least = min(row["process_bytes"] for row in estimate["candidates"])
        cap = estimate["max_memory_bytes"]
        limit = place if cap is None or cap > gpu["total_bytes"] else f"its max_memory of {format_bytes(cap)}"
        sentence = f"Does not fit {limit}, whatever the micro-batch: the least it needs is {format_bytes(least)}."
        return "\n".join(wrap(sentence, 0))
    split = f"micro-batch {plan['micro_batch']} x {plan['accumulation_steps']} accumulation steps"
    used = ", ".join(in_words(plan))
    means = f", with {used}" if used else ""
    reserved = estimate["reserve_bytes"]
    spare = f"with {format_bytes(gpu['total_bytes'] - reserved)} to spare: it would reserve {format_bytes(reserved)}"
    plan_lines = wrap(f"Plan: {split} (effective batch {estimate['effective_batch']}){means}.", 0)
    return "\n".join([*plan_lines, *wrap(f"Fits {place} {spare}. {_knee(estimate['knee'], plan)}", 0)])


def _knee(knee: Mapping[str, int], plan: Mapping[str, Any]) -> str:
    chosen, largest = knee["micro_batch"], knee["largest"]
    if plan["accumulation_steps"] == 1:
        return "That is the whole effective batch at once."
    if chosen == largest:
        return "No larger micro-batch in the table would fit."
    return f"The largest micro-batch that fits is {largest}; {chosen} is as fast."
