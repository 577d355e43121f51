"""The estimate of a torch loop as people read it: its parts, its course over a step, and what fits."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from scheduler.cli.memoryplot import draw, svg
from scheduler.cli.terminal import width, wrap
from scheduler.units import format_bytes

Row = Mapping[str, Any]


def text(told: Row) -> str:
    verdicts = [_sentence(one) for one in told.get("devices", [told])]
    return "\n\n".join([_counters(told), _parts(told), draw(told["course"], width=width()), "\n".join(verdicts)])


def _counters(told: Row) -> str:
    settings = ", ".join(f"{name} = {value}" for name, value in told["settings"].items())
    head = f"{told['parameters']:,} parameters" + (f", with {settings}" if settings else "")
    rows = [
        ("allocated", "tensors, at the peak"),
        ("reserved", "by torch's allocator"),
        ("process", "with the context: what nvidia-smi shows"),
        ("expandable", "the same with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"),
        ("least", "under a cap: cached segments given back"),
    ]
    lines = [f"  {name:<11}  {format_bytes(told[f'{name}_bytes']):>9}  {what}" for name, what in rows]
    worst = told.get("routing", {}).get("worst", told)["process_bytes"]
    if worst > told["process_bytes"]:
        lines.append(f"  {'worst':<11}  {format_bytes(worst):>9}  process, with all tokens sent to the same experts")
    return "\n".join([f"{head}:", *lines])


def _parts(told: Row) -> str:
    rows = [f"  {name:<11}  {format_bytes(size):>9}" for name, size in told["parts"].items() if size]
    return "\n".join(["At the peak:", *rows])


def _sentence(told: Row) -> str:
    gpu = told["gpu"]
    total = format_bytes(gpu["total_bytes"])
    place = gpu["name"] if total in gpu["name"] else f"{gpu['name']} ({total})"
    need = format_bytes(told["need_bytes"])
    if told["fits"]:
        words = f"Fits {place} with {format_bytes(told['spare_bytes'])} to spare: with a margin it needs {need}."
    elif told["least_bytes"] <= gpu["total_bytes"]:
        words = f"Fits {place} only just, with cached memory given back on the way: ideally it needs {need}."
    else:
        words = f"Does not fit {place}: it needs {need}."
    return "\n".join(wrap(words, 0))


def write_plot(path: Path, told: Row, name: str) -> None:
    """Draw the step into a file: HTML if its name ends so, else SVG."""
    title = f"{Path(name).name}: {told['parameters']:,} parameters"
    picture = svg(told["course"], title, told["gpu"]["total_bytes"])
    if path.suffix in (".html", ".htm"):
        picture = f"<!doctype html><meta charset='utf-8'><title>{escape(title)}</title>\n{picture}"
    path.write_text(picture)
