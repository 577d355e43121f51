"""A job as it is shown: the fields of `--json`, and the cells of the table. Reads rows of `store.views`.

Imports no records: `mmq status` has to be quick.
"""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scheduler.cli.terminal import Column, Line, one_line, table
from scheduler.config import Settings
from scheduler.jobs.states import JobState
from scheduler.units import format_bytes, format_duration

Row = dict[str, Any]

STATES = tuple(state.value for state in JobState)
ENDED = tuple(state.value for state in JobState if state.ended)
_COLOURS = {"running": "cyan", "admitted": "cyan", "succeeded": "green", "failed": "red", "held": "dim"}
_COLUMNS = (
    Column("id", "ID", right=True),
    Column("name", "NAME", least=12),
    Column("user", "USER", least=6, drop=1),
    Column("state", "STATE"),
    Column("device", "DEVICE", drop=2),
    Column("batch", "BATCH", right=True, drop=3),
    Column("step", "STEP", right=True, drop=4),
    Column("speed", "TOK/S", right=True, drop=8),
    Column("loss", "LOSS", right=True, drop=6),
    Column("memory", "PRED/PEAK", right=True, drop=5),
    Column("eta", "ETA", right=True, drop=7),
)
_COPIED = (
    "id name kind state reason message waiting_code waiting priority gpus effective_batch attempt host device"
    " micro_batch accumulation_steps reserved_bytes step total_steps first_loss loss tokens_per_second eta_seconds"
    " heartbeat_at cancel_requested_at cancel_requested_by submitted_at started_at ended_at array_id variant"
).split()


def as_json(row: Row, settings: Settings) -> Row:
    """The stable fields of a job, and some more. Peaks are what a device shows for the process."""
    job = {key: row[key] for key in _COPIED}
    return job | {
        "user": row["user_name"],
        "device": None if row["state"] in ("queued", "held") else row["device"],  # not that of an attempt before
        "predicted_peak_bytes": _first(row, "predicted_process_bytes", "predicted_reserved_bytes"),
        "measured_peak_bytes": _first(row, "measured_process_bytes", "measured_reserved_bytes"),
        "run_dir": str(settings.run_dir(row["id"])),
    }


def _first(row: Row, *keys: str) -> Any:
    return next((row[key] for key in keys if row[key] is not None), None)


def jobs_table(
    jobs: Sequence[Row],
    counts: Mapping[str, int],
    *,
    shown_all: bool,
    arrays: Mapping[int, Mapping[str, int]] = MappingProxyType({}),  # to be shown on one line: state -> members
) -> str:
    """The table of jobs with, under each that waits or ended badly, the reason in words; then how many there are."""
    firsts = {job["array_id"]: job["id"] for job in reversed(jobs)}
    jobs = [job for job in jobs if job["array_id"] not in arrays or firsts[job["array_id"]] == job["id"]]
    lines = [array_line(job, arrays[job["array_id"]]) if job["array_id"] in arrays else job_line(job) for job in jobs]
    if len({job["user"] for job in jobs}) < 2:
        lines = [line._replace(values={**line.values, "user": ""}) for line in lines]
    parts = [table(_COLUMNS, lines)] if lines else ["no jobs"]
    if counts and (len(jobs) < sum(counts.values()) or len(jobs) > 1):
        summary = _counted(counts)
        missing = sum(counts.values()) - len(jobs) - sum(sum(members.values()) - 1 for members in arrays.values())
        parts.append(summary + (f" ({missing:,} not shown: mmq status --all)" if missing > 0 and not shown_all else ""))
    return "\n".join(parts)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts.get(state))


def array_line(job: Row, members: Mapping[str, int]) -> Line:
    """An array on one row, by the first of its members that is shown, with how many are in which state."""
    first = job_line(job)
    cells = dict.fromkeys(first.values, "") | {name: first.values[name] for name in ("user", "state")}
    cells |= {"id": f"@{job['array_id']}", "name": one_line(job["name"])}
    waits = f"; job {job['id']} {job['waiting']}" if job["waiting"] is not None else ""
    return Line(cells, first.colours, one_line(f"array of {sum(members.values()):,}: {_counted(members)}{waits}"))


def job_line(job: Row) -> Line:
    """One row of the table; values that do not apply are empty."""
    live = job["attempt"] is not None
    cells = {
        "id": str(job["id"]),
        "name": one_line(job["name"] + (f" {_briefly(job['variant'])}" if job["variant"] else "")),
        "user": one_line(job["user"]),
        "state": "cancelling" if job["cancel_requested_at"] and job["state"] not in ENDED else job["state"],
        "device": job["device"] or "",
        "batch": f"{job['micro_batch']}x{job['accumulation_steps']}" if live else "",
        "step": f"{job['step'] or 0}/{job['total_steps']}" if job["total_steps"] else "",
        "speed": speed(job["tokens_per_second"]) if job["state"] not in ("queued", "held") else "",
        "loss": number(job["loss"], 3),
        "memory": memory(job["predicted_peak_bytes"], job["measured_peak_bytes"]) if live else "",
        "eta": eta(job) if job["state"] == "running" else "",
    }
    return Line(cells, {"state": _COLOURS.get(job["state"], "")} if job["state"] in _COLOURS else {}, remark(job))


def _briefly(variant: str) -> str:
    """The fields that set a member apart, without their sections: `learning_rate=1e-4`."""
    return " ".join(each.partition("=")[0].rpartition(".")[2] + each[each.find("=") :] for each in variant.split(" "))


def remark(job: Row) -> str | None:
    """Why it waits, or why it ended, in words; None for what needs none."""
    if job["waiting"] is not None:
        return one_line(job["waiting"])
    if job["state"] in ("failed", "cancelled"):
        reason = (job["reason"] or "").replace("_", " ")
        message = one_line(job["message"] or "").removeprefix(f"{job['state']}: ")
        reason = "" if reason == job["state"] else reason
        message = "" if message == job["state"] else message
        return f"{reason}: {message}" if reason and message else message or reason or None
    return None


def speed(tokens_per_second: float | None) -> str:
    if tokens_per_second is None:
        return ""
    return f"{tokens_per_second / 1000:.1f}k" if tokens_per_second >= 1000 else f"{tokens_per_second:.0f}"


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def memory(predicted: int | None, measured: int | None) -> str:
    """Predicted and measured peak, in one unit."""
    if predicted is None and measured is None:
        return ""
    large = max(predicted or 0, measured or 0) >= 2**30
    shown = (f"{count / 2**30:.2f}" if large else f"{count / 2**20:.0f}" for count in (predicted or 0, measured or 0))
    return "/".join("-" if text in ("0", "0.00") else text for text in shown) + (" GiB" if large else " MiB")


def eta(job: Row) -> str:
    """What is left, counted from the last sign of life."""
    if job["eta_seconds"] is None:
        return ""
    since = max(0.0, time.time() - (job["heartbeat_at"] or time.time()))
    return format_duration(max(0.0, job["eta_seconds"] - since))


def size(count: int | None) -> str:
    return "-" if count is None else format_bytes(count)
