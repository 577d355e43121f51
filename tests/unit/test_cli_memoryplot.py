"""Memory over a step as a picture, in the terminal and as SVG."""

import xml.etree.ElementTree as ElementTree
from typing import Any

from scheduler.cli.memoryplot import draw, svg

GIB = 1 << 30


def point(phase: str, gib: float, **parts: float) -> dict[str, Any]:
    sizes = {kind: int(size * GIB) for kind, size in parts.items()}
    return {"phase": phase, "allocated_bytes": int(gib * GIB), "reserved_bytes": 8 * GIB, "parts": sizes}


TIMELINE = [
    *(point("forward", 1 + n / 8, weights=1, activations=n / 8) for n in range(48)),
    *(point("backward", 7 - n / 8, weights=1, activations=6 - n / 8) for n in range(48)),
    *(point("optimizer", 2, weights=1, optimizer=1) for n in range(8)),
]


def test_a_terminal_shows_the_peak_and_the_phases_within_its_width() -> None:
    lines = draw(TIMELINE, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("  7.0 GiB")
    assert "█" in lines[-2]
    assert [name for name in ("|forward", "|backward", "|opti") if name in lines[-1]] == [
        "|forward",
        "|backward",
        "|opti",
    ]
    assert lines[0].count("█") < lines[-2].count("█")


def test_an_svg_stacks_the_kinds_and_names_the_phases() -> None:
    picture = ElementTree.fromstring(svg(TIMELINE, "a <loop> & more", 24 * GIB))
    space = "{http://www.w3.org/2000/svg}"
    kinds = [area.findtext(f"{space}title") for area in picture.iter(f"{space}polygon")]
    assert kinds == ["weights", "optimizer", "activations"]
    words = [text.text for text in picture.iter(f"{space}text")]
    assert {"a <loop> & more", "forward", "backward", "optimizer", "8.0 GiB"} <= set(words)
    for area in picture.iter(f"{space}polygon"):
        heights = [float(pair.split(",")[1]) for pair in area.attrib["points"].split()]
        assert all(24 <= height <= 320 - 64 for height in heights)
