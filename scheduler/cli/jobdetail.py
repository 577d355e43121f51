"""A job in full: what was asked, why it waits, each attempt with its peaks, every event."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from scheduler.cli import eventview, forecast, jobview
from scheduler.cli.terminal import Column, Line, one_line, paint, table, wrap
from scheduler.config import Settings
from scheduler.jobs.means import in_words
from scheduler.store import jobs as stored_jobs
from scheduler.store import views
from scheduler.store.database import Database
from scheduler.store.observations import NOTES_KEPT
from scheduler.units import format_bytes, format_duration

Row = dict[str, Any]

_ATTEMPTS = (
    Column("number", "ATTEMPT", right=True),
    Column("state", "STATE"),
    Column("device", "DEVICE"),
    Column("batch", "BATCH", right=True),
    Column("step", "STEP", right=True),
    Column("loss", "LOSS", right=True, drop=2),
    Column("reserved", "RESERVED", right=True, drop=1),
    Column("memory", "PRED/PEAK", right=True),
    Column("took", "TOOK", right=True),
)
_INDENT = 11


class Detail(NamedTuple):
    job: Row  # as `status --json` has it
    attempts: list[Row]
    events: list[Row]
    depends_on: list[Row]
    needed_by: list[Row]


def details(database: Database, settings: Settings, refs: Sequence[str]) -> list[Detail]:
    """Read all about each job named; NoSuchJob."""
    forecasts = forecast.forecasts(settings)
    ids = stored_jobs.resolve(database, refs)
    return [detail(views.job_detail(database, job_id), settings, forecasts.get(job_id)) for job_id in ids]


def detail(rows: views.JobDetail, settings: Settings, expected: forecast.Forecast | None = None) -> Detail:
    """Decode the rows of one job; a forecast stands only while the job is queued."""
    start = expected if expected and rows.job["state"] == "queued" else forecast.UNKNOWN
    job = jobview.as_json(rows.job, settings) | {
        "spec": json.loads(rows.job["spec"]),
        "code_version": rows.job["code_version"],
        "source_path": rows.job["source_path"],
        "depends_on": [row["id"] for row in rows.depends_on],
        "needed_by": [row["id"] for row in rows.needed_by],
        "position": start.position,
        "starts_in_seconds": start.starts_in_seconds,
    }
    attempts = [row | {"plan": json.loads(row["plan"])} for row in rows.attempts]
    events = [eventview.as_json(row) for row in rows.events]
    return Detail(job, attempts, events, rows.depends_on, rows.needed_by)


def as_json(jobs: Sequence[Detail], devices: list[Row]) -> Row:
    """Each job carries its own attempts and events; those of all jobs named stand at the top as well."""
    return {
        "jobs": [job.job | {"attempts": job.attempts, "events": job.events} for job in jobs],
        "devices": devices,
        "attempts": [attempt for job in jobs for attempt in job.attempts],
        "events": [event for job in jobs for event in job.events],
    }


def text(jobs: Sequence[Detail]) -> str:
    return "\n\n\n".join("\n".join(_lines(job)) for job in jobs)


def _lines(detail: Detail) -> Iterator[str]:
    job = detail.job
    yield paint(f"job {job['id']}  {one_line(job['name'])}", "bold") + f"  ({job['kind']}, {one_line(job['user'])})"
    facts = {
        "state": _state(job),
        "waits": jobview.remark(job) if job["waiting"] is not None else None,
        "place": forecast.in_words(forecast.Forecast(job["position"], job["starts_in_seconds"])),
        "reason": jobview.remark(job) if job["state"] in jobview.ENDED else None,
        "plan": _plan(detail),
        "progress": _progress(job),
        "memory": _memory(job),
        "after": _named(detail.depends_on),
        "before": _named(detail.needed_by),
        "cancel": job["cancel_requested_by"] and f"asked by {one_line(job['cancel_requested_by'])}",
        "code": one_line(job["code_version"]),
        "from": one_line(job["source_path"]),
        "run": job["run_dir"],
    }
    for title, fact in facts.items():
        if fact:
            first, *rest = wrap(fact, _INDENT)
            yield f"  {title:<{_INDENT - 2}}{first}"
            yield from (" " * _INDENT + line for line in rest)
    if detail.attempts:
        yield ""
        yield table(_ATTEMPTS, [_attempt(row) for row in detail.attempts])
    yield ""
    for event in detail.events:
        yield from _event(event, detail.attempts)
    notes = Counter((event["attempt_id"], event["kind"]) for event in detail.events if event["kind"] != "state")
    if NOTES_KEPT in notes.values():
        yield f"  only the last {NOTES_KEPT} trainer events of each kind are shown; more are in its events.jsonl"


def _state(job: Row) -> str:
    now = time.time()
    where = f" on {job['device']}" if job["device"] else ""
    since = {"queued": "submitted_at", "held": "submitted_at"}.get(job["state"], "started_at")
    if job["state"] in jobview.ENDED:
        took = (job["ended_at"] or now) - (job["started_at"] or job["submitted_at"])
        return f"{job['state']}{where} {_ago(job['ended_at'], now)}, after {format_duration(took)}"
    return f"{job['state']}{where}, {'submitted' if since == 'submitted_at' else 'started'} {_ago(job[since], now)}"


def _ago(at: float | None, now: float) -> str:
    return "just now" if at is None or now - at < 1 else f"{format_duration(now - at)} ago"


def _plan(detail: Detail) -> str | None:
    job = detail.job
    if not detail.attempts:
        return f"effective batch {job['effective_batch']}"
    plan = detail.attempts[-1]["plan"]
    split = f"micro-batch {job['micro_batch']} x {job['accumulation_steps']} accumulation steps"
    return ", ".join([f"{split} (effective batch {job['effective_batch']} kept)", *in_words(plan)])


def _progress(job: Row) -> str | None:
    if not job["total_steps"]:
        return None
    done = job["step"] or 0
    parts = [f"step {done:,} of {job['total_steps']:,} ({done / job['total_steps']:.0%})"]
    if job["loss"] is not None:
        first = f" (first {job['first_loss']:.3f})" if job["first_loss"] is not None else ""
        parts.append(f"loss {job['loss']:.3f}{first}")
    if job["tokens_per_second"]:
        parts.append(f"{jobview.speed(job['tokens_per_second'])} tokens/s")
    if job["state"] == "running" and (left := jobview.eta(job)):
        parts.append(f"{left} left")
    return ", ".join(parts)


def _memory(job: Row) -> str | None:
    peaks = {"reserved": "reserved_bytes", "predicted": "predicted_peak_bytes", "measured": "measured_peak_bytes"}
    known = [f"{title} {format_bytes(job[key])}" for title, key in peaks.items() if job[key] is not None]
    return ", ".join(known) or None


def _named(jobs: Sequence[Row]) -> str | None:
    return ", ".join(f"{row['id']} ({one_line(row['name'])}, {row['state']})" for row in jobs) or None


def _attempt(row: Row) -> Line:
    ended = row["ended_at"] or time.time()
    cells = {
        "number": str(row["number"]),
        "state": row["state"],
        "device": row["device"],
        "batch": f"{row['micro_batch']}x{row['accumulation_steps']}",
        "step": f"{row['step'] or 0}/{row['total_steps']}" if row["total_steps"] else "",
        "loss": jobview.number(row["loss"], 3),
        "reserved": format_bytes(row["reserved_bytes"]),
        "memory": jobview.memory(row["predicted_process_bytes"], row["measured_process_bytes"]),
        "took": format_duration(ended - (row["started_at"] or row["admitted_at"])),
    }
    return Line(cells, remark=_ending(row))


def _ending(row: Row) -> str | None:
    if row["reason"] in (None, "done"):
        return None
    code = f" (exit code {row['exit_code']})" if row["exit_code"] is not None else ""
    signal = f" (signal {row['exit_signal']})" if row["exit_signal"] else ""
    message = f": {one_line(row['message'])}" if row["message"] else ""
    return f"{row['reason'].replace('_', ' ')}{code}{signal}{message}"


def _event(event: Row, attempts: Sequence[Row]) -> Iterator[str]:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    number = next((row["number"] for row in attempts if row["id"] == event["attempt_id"]), None)
    attempt = f"attempt {number}: " if number else ""
    yield f"  {at}  {attempt}{eventview.happened(event)}"
    if facts := eventview.facts(event["detail"]):
        yield from (f"{'':23}{paint(line, 'dim')}" for line in wrap(facts, 23))
