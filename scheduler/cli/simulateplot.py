"""The course of simulations as a picture: in the terminal, and as an SVG file. Pure text in both forms."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from scheduler.simulation.comparison import Result
from scheduler.simulation.physics import Moment
from scheduler.units import format_duration

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#eeca3b", "#9d755d")
_WIDTH, _LEFT, _RIGHT, _TOP = 860, 60, 16, 28
_PANEL, _GAP = 150, 34
_COLUMNS = 240  # stretches of time that a line is averaged over

Figure = Callable[[Moment], float]


def draw(results: Sequence[Result], *, width: int) -> str:
    """Draw for each simulation how many jobs wait, as a line of columns, all to one scale and over one time."""
    names = _names(results)
    columns = max(16, width - max(map(len, names)) - 10)
    span_seconds = _span(results)
    series = [averaged(result, lambda moment: moment.queued, columns, span_seconds) for result in results]
    most = max((max(each) for each in series), default=0.0) or 1.0
    wide = max(map(len, names))
    lines = [
        f"{name:<{wide}} {''.join(_EIGHTHS[_eighths(value / most)] for value in each)} {max(each):5.0f}"
        for name, each in zip(names, series, strict=True)
    ]
    return "\n".join([*lines, f"{'':<{wide}} 0{format_duration(span_seconds):>{columns - 1}}"])


def svg(results: Sequence[Result], title: str) -> str:
    """Draw queue, use of the devices and completions of all simulations over one time."""
    span_seconds = _span(results)
    panels: list[tuple[str, list[list[float]]]] = [
        ("jobs that wait", [_series(result, lambda moment: moment.queued, span_seconds) for result in results]),
        (
            "devices' time used, %",
            [
                [
                    100 * busy / result.outcome.hardware.devices
                    for busy in _series(result, lambda moment: moment.busy, span_seconds)
                ]
                for result in results
            ],
        ),
        ("jobs ended", [_series(result, lambda moment: moment.ended, span_seconds) for result in results]),
    ]
    height = _TOP + len(panels) * (_PANEL + _GAP) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
        ' font-size="11">',
        f'<text x="{_LEFT}" y="14">{escape(title)}</text>',
    ]
    for number, (name, series) in enumerate(panels):
        parts += _panel(_TOP + number * (_PANEL + _GAP), name, series, span_seconds)
    parts += _legend(_names(results), height - 8)
    return "\n".join([*parts, "</svg>"]) + "\n"


def averaged(result: Result, figure: Figure, columns: int, span_seconds: float) -> list[float]:
    """Return a figure's average over each of so many stretches of time, from the first submission on."""
    moments = result.outcome.moments
    first = moments[0].at if moments else 0.0
    wide = span_seconds / columns or 1.0
    sums = [0.0] * columns
    for before, after in pairwise(moments):
        low, high = before.at - first, after.at - first
        for column in range(min(columns - 1, int(low / wide)), min(columns - 1, int(high / wide)) + 1):
            overlap = min(high, (column + 1) * wide) - max(low, column * wide)
            sums[column] += max(0.0, overlap) * figure(before)
    last = (moments[-1].at - first) if moments else 0.0
    for column in range(columns):  # after its end a simulation stays as it is
        rest = (column + 1) * wide - max(last, column * wide)
        sums[column] += max(0.0, rest) * (figure(moments[-1]) if moments else 0.0)
    return [value / wide for value in sums]


def _series(result: Result, figure: Figure, span_seconds: float) -> list[float]:
    return averaged(result, figure, _COLUMNS, span_seconds)


def _span(results: Sequence[Result]) -> float:
    spans = [result.outcome.moments[-1].at - result.outcome.moments[0].at for result in results]
    return max(spans, default=0.0)


def _names(results: Sequence[Result]) -> list[str]:
    several = len({result.outcome.hardware.name for result in results}) > 1
    return [f"{result.policy} {result.outcome.hardware.name}" if several else result.policy for result in results]


def _eighths(share: float) -> int:
    return min(8, max(1 if share > 0.01 else 0, round(share * 8)))


def _panel(top: float, name: str, series: Sequence[Sequence[float]], span_seconds: float) -> list[str]:
    most = max((max(each) for each in series), default=0.0) or 1.0
    parts = [f'<text x="{_LEFT}" y="{top - 4}">{escape(name)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + _PANEL * (1 - share)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ccc"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * share:.3g}</text>'
        )
    for share in (0.25, 0.5, 0.75, 1.0):
        x = _x(share)
        parts.append(
            f'<text x="{x:.1f}" y="{top + _PANEL + 14}" text-anchor="end">'
            f"{format_duration(span_seconds * share)}</text>"
        )
    for number, each in enumerate(series):
        points = " ".join(
            f"{_x((column + 0.5) / len(each)):.1f},{top + _PANEL * (1 - value / most):.1f}"
            for column, value in enumerate(each)
        )
        parts.append(f'<polyline fill="none" stroke="{_colour(number)}" stroke-width="1.3" points="{points}"/>')
    return parts


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share


def _legend(names: Sequence[str], y: float) -> list[str]:
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(names))
    return [
        f'<rect x="{_LEFT + step * number:.1f}" y="{y - 9}" width="10" height="10" fill="{_colour(number)}"/>'
        f'<text x="{_LEFT + step * number + 14:.1f}" y="{y}">{escape(name)}</text>'
        for number, name in enumerate(names)
    ]


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
