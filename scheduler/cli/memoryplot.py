"""Memory over a step as a picture: in the terminal, and as an SVG file. Pure text in both forms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from scheduler.units import format_bytes

Point = Mapping[str, Any]  # {"phase", "allocated_bytes", "reserved_bytes", "parts"}

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_COLOURS = {
    "weights": "#4c78a8",
    "gradients": "#72b7b2",
    "optimizer": "#54a24b",
    "activations": "#f58518",
    "logits": "#e45756",
    "temporaries": "#eeca3b",
    "workspace": "#9d9da1",
}
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 800, 320, 80, 24, 64


def draw(timeline: Sequence[Point], *, width: int, height: int = 8) -> str:
    """Draw what is allocated as columns, the highest of their stretch, over a line that names the phases."""
    width = max(16, width - 11)
    columns = _columns(timeline, width)
    most = max(point["allocated_bytes"] for point in timeline)
    lines = []
    for row in range(height, 0, -1):
        label = format_bytes(most * row // height) if row in (height, height // 2) else ""
        cells = (_EIGHTHS[_eighths(point["allocated_bytes"] / most * height - (row - 1))] for point in columns)
        lines.append(f"{label:>9} {''.join(cells)}")
    return "\n".join([*lines, f"{'':>9} {_phases(columns)}"])


def _columns(timeline: Sequence[Point], width: int) -> list[Point]:
    bounds = [len(timeline) * column // width for column in range(width + 1)]
    stretches = (timeline[low : max(low + 1, high)] for low, high in pairwise(bounds))
    return [max(stretch, key=lambda point: int(point["allocated_bytes"])) for stretch in stretches]


def _eighths(share: float) -> int:
    return max(0, min(8, round(share * 8)))


def _phases(columns: Sequence[Point]) -> str:
    """Name each phase under its first column, as far as there is room before the next."""
    line = ""
    for place, length, name in _stretches(columns):
        line = line.ljust(place) + f"|{name}"[:length]
    return line.rstrip()


def _stretches(columns: Sequence[Point]) -> list[tuple[int, int, str]]:
    starts = [n for n, point in enumerate(columns) if n == 0 or point["phase"] != columns[n - 1]["phase"]]
    ends = [*starts[1:], len(columns)]
    return [(start, end - start, columns[start]["phase"]) for start, end in zip(starts, ends, strict=True)]


def svg(timeline: Sequence[Point], title: str, limit_bytes: int | None = None) -> str:
    """Draw the kinds of tensors as areas on top of each other, what is reserved as a line, and the phases below."""
    most = max(point["reserved_bytes"] for point in timeline)
    if limit_bytes is not None and limit_bytes < 1.5 * most:
        most = max(most, limit_bytes)
    width, height = _WIDTH - _LEFT - 16, _HEIGHT - _TOP - _BOTTOM

    def at(index: int, size_bytes: float) -> str:
        x = _LEFT + width * index / max(1, len(timeline) - 1)
        return f"{x:.1f},{_TOP + height * (1 - size_bytes / most):.1f}"

    kinds = [kind for kind in _COLOURS if any(point["parts"].get(kind) for point in timeline)]
    reserved = " ".join(at(n, point["reserved_bytes"]) for n, point in enumerate(timeline))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
        ' font-size="11">',
        f'<text x="{_LEFT}" y="14">{escape(title)}</text>',
        *_areas(timeline, kinds, at),
        f'<polyline fill="none" stroke="#222" stroke-dasharray="4 3" points="{reserved}"><title>reserved</title>'
        "</polyline>",
        *(_level(at(0, size), size) for size in (most, most // 2)),
        *(_named(at(start, 0), name) for start, _, name in _stretches(timeline)),
        *(_legend(number, kind) for number, kind in enumerate(kinds)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _areas(timeline: Sequence[Point], kinds: Sequence[str], at: Callable[[int, float], str]) -> Iterator[str]:
    """Draw each kind on top of those before it."""
    below = [0] * len(timeline)
    for kind in kinds:
        above = [low + point["parts"].get(kind, 0) for low, point in zip(below, timeline, strict=True)]
        upper = [at(n, size) for n, size in enumerate(above)]
        lower = [at(n, size) for n, size in reversed(list(enumerate(below)))]
        points = " ".join(upper + lower)
        yield f'<polygon fill="{_COLOURS[kind]}" points="{points}"><title>{kind}</title></polygon>'
        below = above


def _legend(number: int, kind: str) -> str:
    x = _LEFT + 100 * number
    return (
        f'<rect x="{x}" y="{_HEIGHT - 18}" width="10" height="10" fill="{_COLOURS[kind]}"/>'
        f'<text x="{x + 14}" y="{_HEIGHT - 9}">{kind}</text>'
    )


def _level(place: str, size_bytes: int) -> str:
    x, y = place.split(",")
    return (
        f'<line x1="{x}" x2="{_WIDTH - 16}" y1="{y}" y2="{y}" stroke="#bbb"/>'
        f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end">{format_bytes(size_bytes)}</text>'
    )


def _named(place: str, phase: str) -> str:
    x, y = place.split(",")
    return (
        f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{float(y) + 8}" stroke="#888"/>'
        f'<text x="{float(x) + 3}" y="{float(y) + 16}">{phase}</text>'
    )
