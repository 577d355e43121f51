"""The service's figures as Prometheus reads them: names, help and samples, in its text format.

Written by hand and not by prometheus-client: that keeps counters in a process, and all of these are the store's, so
that nothing is lost with a controller. Nothing listens: `mmq metrics` prints them, and the controller writes the file
that MMQ_METRICS_FILE names, for node_exporter's textfile collector.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scheduler import VERSION
from scheduler.jobs.states import AttemptState, EndReason, JobState, WaitCode
from scheduler.store import views
from scheduler.store.database import Database, Reader
from scheduler.store.figures import Figures, figures

GAUGE, COUNTER = "gauge", "counter"


class Metric(NamedTuple):
    name: str
    kind: str
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]


def exposition(db: Database, *, now: float) -> str:
    """Write all metrics as they are at this moment."""
    with db.snapshot() as reader:
        return "".join(line + "\n" for metric in metrics(reader, now=now) for line in _lines(metric))


def write_file(db: Database, path: Path, *, now: float) -> str | None:
    """Replace the file by one that is whole; why it can't be written, which costs the figures and nothing else."""
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(exposition(db, now=now))
        temporary.chmod(0o644)  # the collector runs as somebody else
        temporary.replace(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None


def metrics(reader: Reader, *, now: float) -> Iterator[Metric]:
    """All there is, with every state, code and reason, also where there is none of it."""
    found = figures(reader)
    yield Metric("mmq_info", GAUGE, "The version of mmq.", [({"version": VERSION}, 1)])
    yield from _of_jobs(found, now)
    yield from _of_attempts(found)
    yield from _of_devices(views.devices(reader))
    yield from _of_service(views.components(reader))


def _of_jobs(found: Figures, now: float) -> Iterator[Metric]:
    yield _by("mmq_jobs", "Jobs by state.", "state", JobState, found.jobs)
    yield _by("mmq_jobs_waiting", "Queued jobs by why they wait.", "code", WaitCode, found.waiting)
    age = 0.0 if found.oldest_queued_at is None else max(0.0, now - found.oldest_queued_at)
    yield _one("mmq_queue_age_seconds", "Seconds since the longest-waiting queued job was submitted.", age)


def _of_attempts(found: Figures) -> Iterator[Metric]:
    live = [state for state in AttemptState if state is not AttemptState.ENDED]
    yield _by("mmq_attempts_live", "Attempts that have not ended, by state.", "state", live, found.live)
    yield _by("mmq_attempts_ended", "Attempts on record by the reason of their end.", "reason", EndReason, found.ended)
    yield _one("mmq_retries", "Attempts on record after their job's first.", found.retries)
    text = "Events on record of trainers that ran out of memory and went on with less."
    yield _one("mmq_out_of_memory_events", text, found.out_of_memory)


def _of_devices(rows: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    def samples(key: str) -> list[tuple[Mapping[str, str], float]]:
        return [(_device(row), row[key]) for row in rows if row[key] is not None]

    yield Metric("mmq_device_total_bytes", GAUGE, "Memory of a device.", samples("total_bytes"))
    yield Metric("mmq_device_used_bytes", GAUGE, "Used by anybody, by the last reading.", samples("used_bytes"))
    yield Metric("mmq_device_reserved_bytes", GAUGE, "Promised to live attempts.", samples("reserved_bytes"))
    free = [
        (_device(row), max(0, row["total_bytes"] - row["used_bytes"])) for row in rows if row["used_bytes"] is not None
    ]
    yield Metric("mmq_device_free_bytes", GAUGE, "Used by nobody, by the last reading.", free)
    yield Metric("mmq_device_busy_ratio", GAUGE, "Share of the time it computed.", samples("utilisation"))
    failed = [(_device(row), float(row["error"] is not None)) for row in rows]
    yield Metric("mmq_device_failed", GAUGE, "1 where it can't be read: no job is placed there.", failed)


def _of_service(rows: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    seen = [({"component": str(row["component"])}, row["at"]) for row in rows]
    yield Metric("mmq_last_seen_timestamp_seconds", GAUGE, "The last sign of life of each part.", seen)
    details = {str(row["component"]): json.loads(row["detail"]) for row in rows}
    for name, kind, help_text in (
        ("cycle_seconds", GAUGE, "What the admission cycle before the last one took."),
        ("cycle_seconds_total", COUNTER, "What all cycles of this controller took."),
        ("cycles_total", COUNTER, "Admission cycles of this controller."),
    ):
        samples = [({"component": part}, detail[name]) for part, detail in details.items() if name in detail]
        yield Metric(f"mmq_{name}", kind, help_text, samples)


def _device(row: Mapping[str, Any]) -> dict[str, str]:
    return {"device": f"{row['kind']}:{row['number']}", "host": row["host"], "id": row["id"], "name": row["name"]}


def _by(name: str, help_text: str, label: str, values: Any, counts: Mapping[str, int]) -> Metric:
    known = [value.value for value in values]
    return Metric(name, GAUGE, help_text, [({label: value}, counts.get(value, 0)) for value in known])


def _one(name: str, help_text: str, value: float) -> Metric:
    return Metric(name, GAUGE, help_text, [({}, value)])


def _lines(metric: Metric) -> Iterator[str]:
    if not metric.samples:
        return
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in metric.samples:
        pairs = ",".join(f'{key}="{_escaped(one)}"' for key, one in labels.items())
        yield f"{metric.name}{{{pairs}}} {value:.16g}" if pairs else f"{metric.name} {value:.16g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
