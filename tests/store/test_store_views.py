"""What people look at: the right jobs in the right order, at a cost that the length of the queue does not set."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.errors import NoSuchJob
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, devices, footprints, heartbeats, jobs, views
from scheduler.store.database import Database
from scheduler.store.records import Progress, Reading
from tests.store.samples import DEVICE, GIB, a_device, admitted, ends, queued, running


def test_the_overview_shows_the_live_the_next_and_the_latest(db: Database) -> None:
    ended = [queued(db, name=f"ended-{number}").id for number in range(12)]
    for at, job_id in enumerate(ended):
        jobs.request_cancel(db, job_id, by="ada", at=10.0 + at)
    waiting = [queued(db, priority=number % 2).id for number in range(25)]
    held = queued(db, hold=True).id
    live = running(db, queued(db, priority=9))
    attempts.heartbeat(db, live.id, Progress(step=7, loss=2.0), at=20.0)
    promised = admitted(db, queued(db))
    shown, counts, _ = views.overview(db)
    ids = [row["id"] for row in shown]
    assert ids[:2] == [live.job_id, promised.job_id]
    assert ids[2:22] == [*waiting[1::2], *waiting[0::2]][:20]
    assert ids[22] == held
    assert ids[23:] == ended[:1:-1]
    assert counts == {"cancelled": 12, "queued": 25, "held": 1, "running": 1, "admitted": 1}
    row = shown[0]
    assert (row["attempt"], row["device"], row["step"], row["micro_batch"]) == (1, "virtual:0", 7, 8)
    assert shown[2]["attempt"] is None


def test_the_overview_by_user_by_state_and_of_everything(db: Database) -> None:
    mine, other = queued(db).id, queued(db, user_name="bob").id
    jobs.request_cancel(db, other, by="bob", at=2.0)

    def shown(**filters: object) -> list[int]:
        return [row["id"] for row in views.overview(db, views.Filters(**filters)).jobs]

    assert shown(user="bob") == [other]
    assert shown(user="nobody") == []
    assert shown(state="queued") == [mine]
    assert shown(state="queued", user="bob") == []
    assert shown(everything=True) == [mine, other]
    assert views.overview(db, views.Filters(user="bob")).counts == {"cancelled": 1}


def test_the_story_of_a_job(db: Database) -> None:
    first = queued(db, name="first")
    second = queued(db, name="second", depends_on=(first.id,))
    attempts.finish(db, running(db, first).id, ends(EndReason.EXIT_CODE, exit_code=1), at=5.0)
    detail = views.job_detail(db, first.id)
    assert (detail.job["name"], detail.job["attempt"], detail.job["source_path"]) == ("first", 1, "/jobs/tiny.yaml")
    assert [attempt["exit_code"] for attempt in detail.attempts] == [1]
    assert [event["to_state"] for event in detail.events if event["kind"] == "state"] == [
        "queued",
        "admitted",
        "running",
        "queued",
    ]
    assert detail.needed_by == [{"id": second.id, "name": "second", "state": "queued"}]
    assert views.job_detail(db, second.id).depends_on == [{"id": first.id, "name": "first", "state": "queued"}]
    with pytest.raises(NoSuchJob):
        views.job_detail(db, 99)


def test_devices_with_their_readings_and_promises(db: Database) -> None:
    devices.upsert(db, [a_device(), a_device("virtual-1@here", 1)], "here")
    devices.upsert(db, [a_device("virtual-0@there")], "there")
    reading = Reading(device_id=DEVICE, at=2.0, used_bytes=5 * GIB, processes="", utilisation=0.5, error=None)
    devices.write_readings(db, [_Seen(reading, ((41, GIB),))])
    devices.write_readings(db, [_Seen(reading, ((42, GIB), (43, 0)))])
    attempt = running(db, queued(db))
    first, second, third = views.devices(db)
    assert (first["id"], first["used_bytes"], first["reserved_bytes"]) == (DEVICE, 5 * GIB, 4 * GIB)
    assert first["processes"] == devices.readings(db)[DEVICE].processes == "[[42, 1073741824], [43, 0]]"
    assert (second["number"], second["used_bytes"], second["reserved_bytes"]) == (1, None, 0)
    assert third["host"] == "there"
    assert [(row["job_id"], row["pid"], row["name"]) for row in views.holders(db)] == [(attempt.job_id, 100, "tiny")]
    devices.upsert(db, [], "here")
    assert [row["host"] for row in views.devices(db)] == ["there"]
    assert [device.present for device in devices.list_devices(db)] == [0, 0, 1]


class _Seen:
    """A reading as the devices give it: with its processes as pairs."""

    def __init__(self, reading: Reading, processes: tuple[tuple[int, int], ...]) -> None:
        self.device_id, self.at, self.used_bytes = reading.device_id, reading.at, reading.used_bytes
        self.utilisation, self.error, self.processes = reading.utilisation, reading.error, processes


def test_footprints_are_kept_by_key(db: Database) -> None:
    assert footprints.get(db, "k") is None
    footprints.put(db, "k", "{}", at=1.0)
    footprints.put(db, "k", '{"a": 1}', at=2.0)
    kept = footprints.get(db, "k")
    assert kept is not None
    assert (kept.answer, kept.created_at) == ('{"a": 1}', 2.0)


def test_the_latest_footprints_are_kept(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprints, "KEPT", 2)
    for at, key in enumerate("abcb"):
        footprints.put(db, key, "{}", at=float(at))
    assert [footprints.get(db, key) is not None for key in "abc"] == [False, True, True]


def test_the_last_sign_of_life_counts(db: Database) -> None:
    heartbeats.beat(db, "worker@here", 10, 1, at=1.0)
    heartbeats.beat(db, "worker@here", 11, 2, {"busy": True}, at=2.0)
    (beat,) = heartbeats.all(db)
    assert (beat.pid, beat.pid_started, beat.at, beat.detail) == (11, 2, 2.0, '{"busy": true}')
    assert views.components(db)[0]["component"] == "worker@here"


def _plans(db: Database) -> list[str]:
    statements = [views.JOB + section.format(more=views.FIRST_OF_ARRAY) for section in views.SECTIONS]
    statements.append("SELECT state, COUNT(*) AS jobs FROM jobs WHERE 1 = 1 GROUP BY state")
    statements.append("SELECT * FROM attempts WHERE state <> 'ended'")
    statements.append("SELECT * FROM jobs WHERE state = 'queued' ORDER BY priority DESC, id ASC")
    return ["; ".join(row["detail"] for row in db.query(f"EXPLAIN QUERY PLAN {statement}")) for statement in statements]


def test_what_status_reads_goes_by_an_index(db: Database, driver: str) -> None:
    if driver == "postgres":
        pytest.skip("it plans by the size of the tables")
    live, *others = _plans(db)
    assert "ix_jobs_queue" in live
    for plan in others:
        assert "TEMP B-TREE" not in plan, plan
        assert not re.search(r"SCAN (jobs|attempts)(?! USING (COVERING )?INDEX)", plan), plan


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        ("views.overview(db); views.devices(db)", {"sqlalchemy", "alembic", "msgspec", "json"}),
        ("from scheduler.store import attempts, heartbeats; jobs.queue(db)", {"sqlalchemy", "alembic", "celery"}),
    ],
)
def test_the_lean_way_in_loads_nothing_heavy(
    db: Database, driver: str, tmp_path: Path, imports: str, absent: set[str]
) -> None:
    if driver != "lean":
        pytest.skip("of the lean driver")
    first = "from scheduler.store import views" if "views" in imports else "from scheduler.store import jobs"
    code = (
        "import sys; from scheduler.config import Settings; from scheduler.store.opening import open_database;"
        f"{first}; db = open_database(Settings.from_environment(), lean=True); {imports}; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MMQ_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert absent.isdisjoint(loaded)
