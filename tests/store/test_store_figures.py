"""The figures for Prometheus: right by what happened, in a form that it reads, each documented."""

import re
import time
from pathlib import Path

import pytest

from scheduler.controller.metrics import Metric, _lines, exposition, metrics, write_file
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, devices, heartbeats, observations
from scheduler.store.database import Database
from scheduler.store.records import Reading
from tests.store.samples import DEVICE, GIB, ends, queued, running
from tests.unit.pages import page, spans

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+)\})? (-?[0-9.e+-]+)')


def read(text: str) -> dict[str, float]:
    """What a collector reads: samples, each of a metric that was announced with help and type."""
    samples, announced = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            announced.add(line.split()[2])
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in announced
            assert line.rpartition(" ")[0] not in samples
            samples[line.rpartition(" ")[0]] = float(match[3])
    return samples


def populate(db: Database) -> None:
    """Job 1 was killed, runs again, and ran out of memory once; job 2 waits since 1."""
    attempts.finish(db, running(db, queued(db)).id, ends(EndReason.KILLED, exit_signal=9), at=5.0)
    from scheduler.store.jobs import get

    again = running(db, get(db, 1))
    observations.note(db, again, "out_of_memory", {"step": 3}, at=6.0)
    queued(db)
    reading = Reading(device_id=DEVICE, at=7.0, used_bytes=5 * GIB, processes="[]", utilisation=0.5, error=None)
    devices.write_readings(db, [reading])  # type: ignore[list-item]
    heartbeats.beat(db, "controller@here", 1, 2, {"cycles_total": 4, "cycle_seconds_total": 0.5}, at=8.0)


def test_the_figures_are_what_happened(db: Database) -> None:
    populate(db)
    samples = read(exposition(db, now=11.0))
    of_device = f'{{device="virtual:0",host="here",id="{DEVICE}",name="virtual 20 GiB"}}'
    expected = {
        'mmq_jobs{state="running"}': 1,
        'mmq_jobs{state="queued"}': 1,
        'mmq_jobs{state="failed"}': 0,
        'mmq_jobs_waiting{code="new"}': 1,
        "mmq_queue_age_seconds": 10,
        'mmq_attempts_live{state="running"}': 1,
        'mmq_attempts_ended{reason="killed"}': 1,
        "mmq_retries": 1,
        "mmq_out_of_memory_events": 1,
        f"mmq_device_total_bytes{of_device}": 20 * GIB,
        f"mmq_device_reserved_bytes{of_device}": 4 * GIB,
        f"mmq_device_used_bytes{of_device}": 5 * GIB,
        f"mmq_device_free_bytes{of_device}": 15 * GIB,
        f"mmq_device_busy_ratio{of_device}": 0.5,
        f"mmq_device_failed{of_device}": 0,
        'mmq_last_seen_timestamp_seconds{component="controller@here"}': 8,
        'mmq_cycles_total{component="controller@here"}': 4,
        'mmq_cycle_seconds_total{component="controller@here"}': 0.5,
    }
    assert {name: samples.get(name) for name in expected} == expected


def test_an_empty_store_has_figures_too(db: Database) -> None:
    samples = read(exposition(db, now=time.time()))
    assert samples["mmq_queue_age_seconds"] == 0
    assert sum(value for name, value in samples.items() if name.startswith("mmq_attempts")) == 0


def test_every_metric_is_documented_and_no_other(db: Database) -> None:
    names = {span for row in page("operations.md").table("Metrics") for span in spans(row[0])}
    with db.snapshot() as reader:
        assert {metric.name for metric in metrics(reader, now=1.0)} == names


def test_the_file_is_replaced_whole_and_for_others_to_read(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "mmq.prom"
    path.write_text("old")
    write_file(db, path, now=1.0)
    assert path.read_text() == exposition(db, now=1.0)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == ["mmq.prom"]


@pytest.mark.parametrize("name", ['a "b"', "a\\b", "a\nb"])
def test_a_label_can_hold_anything(name: str) -> None:
    lines = list(_lines(Metric("mmq_x", "gauge", "X.", [({"name": name}, 1.5)])))
    assert SAMPLE.fullmatch(lines[-1])
    assert len(lines) == 3
