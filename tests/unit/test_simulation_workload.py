"""Workloads: read and written, refused with the line and the field named, and the standard one as its page says."""

import json
import math
import statistics
from collections import Counter
from pathlib import Path

import pytest

from scheduler.errors import UsageError
from scheduler.simulation.hardware import parse
from scheduler.simulation.source import open_workload
from scheduler.simulation.standard import CARD_BYTES, USERS, Kind, draw
from scheduler.simulation.workload import Job, read, write
from tests.unit.simulated import GIB, job

LINE = {
    "submit_seconds": 5,
    "user": "ada",
    "priority": 0,
    "alone_seconds": 100.5,
    "utilisation": 0.5,
    "overhead": 2,
    "user_micro_batch": 4,
    "effective_batch": 8,
    "fixed_bytes": 100,
    "bytes_per_sample": 10,
    "declared_bytes": 200,
    "estimate_seconds": 90,
}


def file_of(folder: Path, *lines: object) -> Path:
    path = folder / "queue.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_jobs_are_read_in_the_order_of_submission_and_numbered_by_line(tmp_path: Path) -> None:
    path = file_of(tmp_path, LINE | {"submit_seconds": 9}, "", LINE | {"note": "fields that mean nothing here"})
    assert [(one.job_id, one.submit_seconds) for one in read(path)] == [(3, 5), (1, 9)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    jobs = draw(3)
    write(jobs, tmp_path / "w.jsonl")
    assert read(tmp_path / "w.jsonl") == jobs
    named = file_of(tmp_path, LINE | {"id": 0}, LINE | {"id": 7})
    assert [one.job_id for one in read(named)] == [0, 7]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"utilisation": 1.5}, "utilisation"),
        ({"utilisation": 0}, "utilisation"),
        ({"alone_seconds": "long"}, "alone_seconds"),
        ({"alone_seconds": -1}, "alone_seconds"),
        ({"user_micro_batch": 0}, "user_micro_batch"),
        ({"priority": 0.5}, "priority"),
        ({"user": ""}, "user"),
        ({"estimate_seconds": None}, "estimate_seconds"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_line(wrong: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        read(file_of(tmp_path, LINE, LINE | wrong))
    assert refused.value.message.startswith(f"{tmp_path / 'queue.jsonl'}, line 2: ")
    assert named in refused.value.message


@pytest.mark.parametrize("field", LINE)
def test_every_field_is_needed(field: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=field):
        read(file_of(tmp_path, {name: value for name, value in LINE.items() if name != field}))


@pytest.mark.parametrize(
    ("lines", "told"), [(("{",), "line 1"), (("",), "no job"), (({**LINE, "id": 2}, {**LINE, "id": 2}), "id 2")]
)
def test_what_is_no_workload_is_refused(lines: tuple, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        read(file_of(tmp_path, *lines))


def test_the_model_of_time_and_memory() -> None:
    one = job(alone_seconds=100.0, utilisation=0.5, overhead=2.0, user_micro_batch=2)
    assert one.seconds_at(2) == 100
    assert one.seconds_at(1) == pytest.approx(100 * 3 / 2)
    assert one.busy_seconds_at(1) == pytest.approx(50 * 2 / 1.5)
    assert one.utilisation_at(1) == pytest.approx((50 * 2 / 1.5) / 150)
    assert job(utilisation=1.0, overhead=2.0, user_micro_batch=2).utilisation_at(8) == 1.0
    assert one.bytes_at(3) == 4 * GIB


def test_a_name_is_a_file_or_a_kind_with_a_seed(tmp_path: Path) -> None:
    assert open_workload("standard:4") == draw(4)
    assert open_workload("all-at-once:4") == draw(4, Kind(all_at_once=True))
    assert open_workload("utilisation-0.7:4") == draw(4, Kind(utilisation=0.7))
    assert len(open_workload(str(file_of(tmp_path, LINE)))) == 1
    for wrong in ("standard", "standard:x", "utilisation-0.0:1", "nowhere.jsonl"):
        with pytest.raises(UsageError, match=wrong):
            open_workload(wrong)


def test_devices_are_groups_of_a_size() -> None:
    assert parse("4x24GiB").usable_bytes == (47 * GIB // 2,) * 4
    assert parse("1x24GiB, 2x8GiB").usable_bytes == (47 * GIB // 2, 15 * GIB // 2, 15 * GIB // 2)
    for wrong in ("24GiB", "0x24GiB", "4x", "4x24GiB,", "4xbig", "1x512MiB"):
        with pytest.raises(ValueError, match=r"\w"):
            parse(wrong)


SEEDS = [draw(seed) for seed in range(1, 9)]
EVERY = [one for jobs in SEEDS for one in jobs]


def submissions(jobs: list[Job]) -> list[list[Job]]:
    """What was submitted at one moment by one user is one job, or a sweep."""
    found: dict[tuple[float, str], list[Job]] = {}
    for one in jobs:
        found.setdefault((one.submit_seconds, one.user), []).append(one)
    return list(found.values())


def test_a_seed_is_a_workload() -> None:
    assert draw(5) == draw(5) != draw(6)
    assert all(len(jobs) == 400 for jobs in SEEDS)
    assert all({one.job_id for one in jobs} == set(range(1, 401)) for jobs in SEEDS)


def test_the_standard_workload_is_as_described() -> None:
    groups = [group for jobs in SEEDS for group in submissions(jobs)]
    users = Counter(group[0].user for group in groups)
    assert all(users[user] / len(groups) == pytest.approx(share, abs=0.05) for user, share in USERS.items())
    sweeps = [group for group in groups if len(group) > 1]
    assert len(sweeps) / len(groups) == pytest.approx(0.3, abs=0.05)
    assert max(map(len, sweeps)) == 10
    assert sum(len(group) == 2 for group in sweeps) <= len(SEEDS)  # only the last may be cut short
    assert statistics.mean(group[0].utilisation for group in groups) == pytest.approx(0.5, abs=0.03)
    assert all(60 <= one.alone_seconds <= 12 * 3600 for one in EVERY)
    lengths = [math.log(group[0].alone_seconds) for group in groups]
    assert statistics.mean(lengths) == pytest.approx(math.log(900) + 0.18, abs=0.15)  # drawn again where too long
    assert all(one.bytes_at(one.user_micro_batch) <= one.declared_bytes <= CARD_BYTES for one in EVERY)
    ratios = [
        one.declared_bytes / one.bytes_at(one.user_micro_batch) for one in EVERY if one.declared_bytes < CARD_BYTES
    ]
    assert 1.3 <= min(ratios) < max(ratios) <= 2.0


def test_the_load_offered_and_its_swing() -> None:
    for jobs in SEEDS:
        span = max(one.submit_seconds for one in jobs)
        assert 0.78 <= sum(one.alone_seconds for one in jobs) / (4 * span) <= 0.88
    hours = Counter(int(group[0].submit_seconds % 86400 // 3600) for jobs in SEEDS for group in submissions(jobs))
    assert sum(hours[hour] for hour in range(9, 15)) > 3 * sum(hours[hour] for hour in (21, 22, 23, 0, 1, 2))


def test_the_variations() -> None:
    assert {one.submit_seconds for one in draw(1, Kind(all_at_once=True))} == {0.0}
    for mean in (0.3, 0.7, 0.95):
        drawn = [one.utilisation for seed in range(6) for one in draw(seed, Kind(utilisation=mean))]
        assert statistics.mean(drawn) == pytest.approx(mean, abs=0.06)
