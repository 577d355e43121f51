"""What would have been enough for a job that failed for want of device memory, in a sentence. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.units import format_bytes


class Place(NamedTuple):
    label: str  # "cuda:0"
    total_bytes: int


def would_fit(needed_bytes: int, places: Sequence[Place], *, max_memory_bytes: int | None) -> str:
    """Say which devices have so much memory, or how large one would have to be."""
    need = format_bytes(needed_bytes)
    larger = [place for place in places if place.total_bytes >= needed_bytes]
    named = " or ".join(f"{place.label} ({format_bytes(place.total_bytes)})" for place in larger[:4])
    if larger and max_memory_bytes is not None and max_memory_bytes < needed_bytes:
        allowed = format_bytes(max_memory_bytes)
        return f"resources.max_memory is {allowed}: with more than {need} there would be room on {named}"
    if larger:
        return f"it needs at least {need}, which {named} would have: mmq retry plans with what was learnt"
    if not places:
        return f"a device with more than {need} would do, or a smaller max_seq_len"
    largest = max(places, key=lambda place: place.total_bytes)
    has = format_bytes(largest.total_bytes)
    return (
        f"the largest device here, {largest.label}, has {has}: one with more than {need} would do, "
        "or a smaller max_seq_len"
    )
