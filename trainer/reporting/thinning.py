"""Making a run's events take less room: the same story with fewer points, evenly spread over the run. Pure.

Kinds of which there are few stay whole. Of the others, as a rule steps, as many stay as there is room for, so that
each kind's curve keeps its shape from the run's first point to its last.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec


class _Event(msgspec.Struct):
    """What of a line decides whether it stays."""

    event: Any = None
    step: Any = None


def thinned(lines: Sequence[bytes], most_bytes: int) -> list[bytes]:
    """Choose, in order, lines of about `most_bytes` together, of every kind the first and the last among them."""
    events = [_read(line) for line in lines]
    kinds: dict[str, list[int]] = {}
    for number, event in enumerate(events):
        kinds.setdefault(str(event.event), []).append(number)
    sizes = {kind: sum(len(lines[number]) for number in numbers) for kind, numbers in kinds.items()}
    share = _share(list(sizes.values()), most_bytes)
    kept: set[int] = set()
    for kind, numbers in kinds.items():
        if sizes[kind] <= share:
            kept.update(numbers)
        else:
            points = max(1, share * len(numbers) // sizes[kind])
            kept.update(_spread(numbers, [events[number].step for number in numbers], points))
    return [line for number, line in enumerate(lines) if number in kept]


def _read(line: bytes) -> _Event:
    try:
        return msgspec.json.decode(line, type=_Event)
    except (ValueError, RecursionError):
        return _Event()


def _share(sizes: list[int], most_bytes: int) -> int:
    """The most that each kind may have, if all that need less have what they need."""
    left, share = most_bytes, most_bytes
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            break
        left -= size
    return share


def _spread(numbers: Sequence[int], steps: Sequence[Any], points: int) -> Iterator[int]:
    """Some that lie evenly along the steps; where a resumed run went back, the way counts and not the number."""
    distances = [abs(after - before) for before, after in pairwise(steps)] if _all_whole(steps) else []
    if not any(distances):
        distances = [1] * (len(numbers) - 1)
    spacing = sum(distances) / points
    passed = spacing
    for number, distance in zip(numbers, [0, *distances], strict=True):
        passed += distance
        if passed >= spacing or number == numbers[-1]:
            yield number
            passed = min(passed - spacing, spacing)


def _all_whole(steps: Sequence[Any]) -> bool:
    return all(isinstance(step, int) and abs(step) < 1 << 62 for step in steps)
