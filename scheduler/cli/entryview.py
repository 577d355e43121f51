"""The estimate of a torch loop as people read it: its parts, its course over a step, and what fits."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from scheduler.cli.memoryplot import draw, svg
from scheduler.cli.terminal import width, wrap
from scheduler.units import format_bytes

Row = Mapping[str, Any]


def text(estimate: Row) -> str:
    verdicts = [_verdict(device) for device in estimate.get("devices", [estimate])]
    plot = draw(estimate["course"], width=width())
    return "\n\n".join([_counters(estimate), _parts(estimate), plot, "\n".join(verdicts)])


def _counters(estimate: Row) -> str:
    settings = ", ".join(f"{name} = {value}" for name, value in estimate["settings"].items())
    head = f"{estimate['parameters']:,} parameters" + (f", with {settings}" if settings else "")
    rows = [
        ("allocated", "tensors, at the peak"),
        ("reserved", "by torch's allocator"),
        ("process", "with the context: what nvidia-smi shows"),
        ("expandable", "the same with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"),
        ("least", "under a cap: cached segments given back"),
    ]
    lines = [f"  {name:<11}  {format_bytes(estimate[f'{name}_bytes']):>9}  {what}" for name, what in rows]
    worst = estimate.get("routing", {}).get("worst", estimate)["process_bytes"]
    if worst > estimate["process_bytes"]:
        lines.append(f"  {'worst':<11}  {format_bytes(worst):>9}  process, with all tokens sent to the same experts")
    return "\n".join([f"{head}:", *lines])


def _parts(estimate: Row) -> str:
    rows = [f"  {name:<11}  {format_bytes(size):>9}" for name, size in estimate["parts"].items() if size]
    return "\n".join(["At the peak:", *rows])


def _verdict(estimate: Row) -> str:
    gpu = estimate["gpu"]
    total = format_bytes(gpu["total_bytes"])
    place = gpu["name"] if total in gpu["name"] else f"{gpu['name']} ({total})"
    need = format_bytes(estimate["need_bytes"])
    if estimate["fits"]:
        sentence = f"Fits {place} with {format_bytes(estimate['spare_bytes'])} to spare: with a margin it needs {need}."
    elif estimate["least_bytes"] <= gpu["total_bytes"]:
        sentence = f"Fits {place} only just, with cached memory given back on the way: ideally it needs {need}."
    else:
        sentence = f"Does not fit {place}: it needs {need}."
    return "\n".join(wrap(sentence, 0))


def write_plot(path: Path, estimate: Row, name: str) -> None:
    """Draw memory over a step into a file: HTML if its name ends so, else SVG."""
    title = f"{Path(name).name}: {estimate['parameters']:,} parameters"
    picture = svg(estimate["course"], title, estimate["gpu"]["total_bytes"])
    if path.suffix in (".html", ".htm"):
        picture = f"<!doctype html><meta charset='utf-8'><title>{escape(title)}</title>\n{picture}"
    path.write_text(picture)
