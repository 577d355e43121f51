"""What processes hold, sampled over a run, and by how much it grows: memory, open files, threads, children."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Held(NamedTuple):
    memory_bytes: int  # private to the process
    files: int  # descriptors, sockets among them
    threads: int
    children: int


class Growth(NamedTuple):
    """By a unit of work, by the middle of the samples' last third against that of the first."""

    memory_bytes: float
    files: float
    threads: float
    children: float


def held(pid: int) -> Held:
    """What a living process holds; LookupError or OSError where it has just ended."""
    process = Path(f"/proc/{pid}")
    sizes = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    return Held(
        memory_bytes=int(sizes["RssAnon"].split()[0]) * 1024,
        files=len(list((process / "fd").iterdir())),
        threads=int(sizes["Threads"]),
        children=len((process / "task" / str(pid) / "children").read_text().split()),
    )


def growth(work: Sequence[float], samples: Sequence[Held]) -> Growth:
    """How much more was held for each unit of work done, from the first third of the samples to the last."""
    third = len(samples) // 3
    assert third >= 3, "too few samples to tell a slope"
    span = _middle(work[-third:]) - _middle(work[:third])
    assert span > 0, "no work was done"
    first, last = (
        [_middle(column) for column in zip(*part, strict=True)] for part in (samples[:third], samples[-third:])
    )
    return Growth(*((after - before) / span for before, after in zip(first, last, strict=True)))


def lasting_growth(work: Sequence[float], samples: Sequence[Held], stretches: int = 3) -> Growth:
    """What grew in every stretch of the work, as a leak does; what is loaded for the first time grows in one."""
    bounds = [len(samples) * number // stretches for number in range(stretches + 1)]
    found = [growth(work[begin:end], samples[begin:end]) for begin, end in pairwise(bounds)]
    return Growth(*map(min, zip(*found, strict=True)))


def _middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return float(ordered[len(ordered) // 2])
