"""`mmq status` and `mmq gpus`: the shapes programs rely on, and the tables people read."""

import fcntl
import json
import os
import time

import pytest

from scheduler.cli.terminal import cells
from scheduler.config import Settings
from scheduler.jobs.states import EndReason
from scheduler.processes.liveness import process_started
from scheduler.store import attempts, devices
from scheduler.store.database import Database
from scheduler.store.heartbeats import beat
from scheduler.store.observations import explain_admitted
from scheduler.store.records import Progress, Reading
from tests.acceptance.conftest import Mmq
from tests.store.samples import DEVICE, ends, queued, running, with_device

JOB_FIELDS = (
    "id name kind user state reason waiting device micro_batch accumulation_steps effective_batch attempt step"
    " total_steps tokens_per_second loss predicted_peak_bytes measured_peak_bytes reserved_bytes submitted_at"
    " started_at ended_at run_dir"
).split()
MIB = 1 << 20


@pytest.fixture
def busy(store: Database) -> Database:
    """Job 1 ran out of memory and is gone, 2 runs, 3 waits; a stranger holds 2 GiB of the device."""
    with_device(store)
    job = queued(store, name="gone")
    for _ in range(3):
        outcome = ends(EndReason.OUT_OF_MEMORY, exit_code=80, message="asked for 300 MiB of 100 MiB")
        attempts.finish(store, running(store, job).id, outcome, at=9.0)
    attempt = running(store, queued(store, name="works"), predicted_process_bytes=3000 * MIB)
    news = Progress(step=30, total_steps=120, loss=2.5, tokens_per_second=12345.6, measured_process_bytes=2900 * MIB)
    attempts.heartbeat(store, attempt.id, news, at=time.time())
    queued(store, name="waits")
    processes = ((100, 2900 * MIB), (4321, 2048 * MIB))
    reading = Reading(
        device_id=DEVICE,
        at=time.time(),
        used_bytes=4948 * MIB,
        processes=processes,  # type: ignore[arg-type]
        utilisation=0.5,
        error=None,
    )
    devices.write_readings(store, [reading])
    return store


def test_without_a_store_it_names_what_makes_one(mmq: Mmq) -> None:
    done = mmq("status")
    assert (done.code, done.out) == (4, "")
    assert done.err.endswith("yet\n  hint: mmq up\n")


def test_a_schema_of_another_revision_names_the_upgrade(mmq: Mmq, store: Database) -> None:
    with store.transaction() as tx:
        tx.execute("UPDATE alembic_version SET version_num = 'later'")
    done = mmq("status")
    assert done.code == 4
    assert "hint: " in done.err


def test_json_has_the_promised_fields(mmq: Mmq, busy: Database, settings: Settings) -> None:
    told = json.loads(mmq("status", "--json").out)
    by_name = {job["name"]: job for job in told["jobs"]}
    assert set(by_name) == {"gone", "works", "waits"}
    for job in told["jobs"]:
        assert set(JOB_FIELDS) <= set(job)
    works = by_name["works"]
    assert (works["state"], works["device"], works["attempt"]) == ("running", "virtual:0", 1)
    assert (works["micro_batch"], works["accumulation_steps"], works["effective_batch"]) == (8, 2, 16)
    assert (works["step"], works["total_steps"], works["loss"]) == (30, 120, 2.5)
    assert (works["predicted_peak_bytes"], works["measured_peak_bytes"]) == (3000 * MIB, 2900 * MIB)
    assert works["run_dir"] == str(settings.run_dir(2))
    assert (by_name["gone"]["state"], by_name["gone"]["reason"]) == ("failed", "out_of_memory")
    assert by_name["waits"]["waiting"]
    assert by_name["waits"]["device"] is None


def test_devices_count_promises_and_strangers(mmq: Mmq, busy: Database) -> None:
    (device,) = json.loads(mmq("status", "--json").out)["devices"]
    assert (device["device"], device["total_bytes"]) == ("virtual:0", 20480 * MIB)
    assert (device["reserved_bytes"], device["foreign_bytes"]) == (4096 * MIB, 2048 * MIB)
    assert device["free_bytes"] == (20480 - 4096 - 2048) * MIB
    assert device["foreign_processes"] == [{"pid": 4321, "bytes": 2048 * MIB}]
    assert device["jobs"] == [2]
    assert json.loads(mmq("gpus", "--json").out)["devices"] == [device]
    assert "process 4321" in mmq("gpus").out


def test_beside_an_exclusive_job_nothing_is_free(mmq: Mmq, busy: Database) -> None:
    with busy.transaction() as tx:
        tx.execute("UPDATE attempts SET plan = :plan", plan='{"exclusive": true}')
    (device,) = json.loads(mmq("gpus", "--json").out)["devices"]
    assert (device["free_bytes"], device["foreign_bytes"]) == (0, 2048 * MIB)


def test_without_a_service_gpus_looks_itself(mmq: Mmq) -> None:
    done = mmq("gpus", "--json")
    assert [device["device"] for device in json.loads(done.out)["devices"]] == ["virtual:0", "virtual:1"]
    assert "they were read directly" in done.err


def test_an_admitted_job_that_no_worker_can_be_told_of_says_so(mmq: Mmq, busy: Database) -> None:
    (job,) = busy.query("SELECT id FROM jobs WHERE state = 'running' LIMIT 1")
    with busy.transaction() as tx:
        tx.execute("UPDATE jobs SET state = 'admitted' WHERE id = :id", id=job["id"])
    explain_admitted(busy, job["id"], ("broker", "admitted, but the worker can't be told: the broker is away"))
    shown = json.loads(mmq("status", str(job["id"]), "--json").out)["jobs"][0]
    assert (shown["waiting_code"], shown["state"]) == ("broker", "admitted")
    assert "the worker can't be told" in mmq("status").out
    assert "the worker can't be told" in mmq("status", str(job["id"])).out


def test_the_table_is_readable_at_80_columns(mmq: Mmq, busy: Database) -> None:
    queued(busy, name="名" * 30, user_name="somebody-else-with-a-long-name")
    done = mmq("status")
    assert done.code == 0
    assert max(map(cells, done.out.splitlines())) <= 80
    header = done.out.splitlines()[0].split()
    assert header[:3] == ["ID", "NAME", "USER"]
    assert "out of memory: " in done.out
    assert "30/120" in done.out
    assert "2 queued, 1 running, 1 failed" in done.out


def test_a_service_that_is_not_there_is_told(mmq: Mmq, busy: Database, settings: Settings) -> None:
    told = "note: the service is not running, so nothing starts; it has never run\n  hint: mmq up\n"
    assert mmq("status").err == told
    assert mmq("status", "works").err == told
    assert mmq("status", "--json").err == ""
    with settings.service_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert mmq("status").err == ""
    beat(busy, "controller@here", pid=1, pid_started=1, detail={}, at=time.time() - 65)
    assert "last heard of 1m 05s ago" in mmq("status").err
    with settings.service_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "started": process_started(os.getpid()),
                    "since": time.time() - 61,
                    "problem": "no GPU",
                }
            )
        )
        lock.flush()
        assert mmq("status").err.endswith("so nothing starts\n  hint: mmq doctor\n")
    with busy.transaction() as tx:
        tx.execute("UPDATE jobs SET state = 'cancelled'")
    assert mmq("status").err == ""


def test_colour_is_for_terminals(
    mmq: Mmq, busy: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\x1b" not in mmq("status").out
    monkeypatch.setattr("scheduler.cli.terminal.sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[36mrunning" in mmq("status").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in mmq("status").out


def test_control_characters_never_reach_the_screen(mmq: Mmq, busy: Database) -> None:
    with busy.transaction() as tx:
        tx.execute("UPDATE jobs SET name = :name, waiting = :name", name="a\x1b[2J\x07\u202eb\nc")
    for arguments in ((), ("3",), ("2",)):
        shown = mmq("status", *arguments).out
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "ab c" in shown


def test_filters(mmq: Mmq, busy: Database) -> None:
    queued(busy, name="bobs", user_name="bob")

    def names(*arguments: str) -> list[str]:
        return [job["name"] for job in json.loads(mmq("status", "--json", *arguments).out)["jobs"]]

    assert names("--state", "queued") == ["waits", "bobs"]
    assert names("--user", "bob") == ["bobs"]
    assert names("--all") == ["gone", "works", "waits", "bobs"]
    assert mmq("status", "--state", "lost").code == 2


def test_the_default_view_never_lists_every_job(mmq: Mmq, store: Database) -> None:
    for _ in range(40):
        queued(store)
    done = mmq("status")
    assert len(done.out.splitlines()) < 60
    assert "40 queued (20 not shown: mmq status --all)" in done.out


def test_the_whole_story(mmq: Mmq, busy: Database, settings: Settings) -> None:
    told = json.loads(mmq("status", "gone", "--json").out)
    assert [attempt["number"] for attempt in told["attempts"]] == [1, 2, 3]
    assert [attempt["reason"] for attempt in told["attempts"]] == ["out_of_memory"] * 3
    assert told["events"][0]["to_state"] == "queued"
    assert told["jobs"][0]["attempts"] == told["attempts"]
    text = mmq("status", "1").out
    assert "job 1  gone" in text
    assert "out of memory (exit code 80)" in text
    assert "queued -> admitted" in text
    # Sentences are wrapped; a path stays whole, so that it can be copied, and is as long as it is.
    assert [line for line in text.splitlines() if cells(line) > 80 and str(settings.home) not in line] == []


@pytest.mark.parametrize(
    ("named", "expected"),
    [("1", [1]), ("works", [2]), ("@", [3]), ("@~1", [2]), ("1-2,3", [1, 2, 3])],
)
def test_ways_to_name_jobs(mmq: Mmq, busy: Database, named: str, expected: list[int]) -> None:
    assert [job["id"] for job in json.loads(mmq("status", named, "--json").out)["jobs"]] == expected


@pytest.mark.parametrize("named", ["99", "nobody", "@~50"])
def test_no_such_job(mmq: Mmq, busy: Database, named: str) -> None:
    done = mmq("status", named)
    assert (done.code, done.out) == (3, "")
    assert "hint: " in done.err


def test_an_ambiguous_name_lists_the_ids(mmq: Mmq, busy: Database) -> None:
    queued(busy, name="waits")
    done = mmq("status", "waits")
    assert done.code == 2
    assert "4, 3" in done.err or "3, 4" in done.err


@pytest.mark.parametrize("line", ["status --all --json | head -c 1", "--help | head -1", "status >&-"])
def test_a_closed_pipe_is_no_error(shell: Mmq, store: Database, line: str) -> None:
    for _ in range(200):
        queued(store)
    command, pipe, rest = line.partition(" |")
    *notes, last = shell(f"{{ $MMQ {command}; echo ended $? >&2; }}{pipe}{rest}").err.splitlines()
    assert last == "ended 0"
    assert [line for line in notes if not line.startswith(("note: the service is not running", "  hint: mmq up"))] == []


def test_a_device_s_name_is_never_cut(mmq: Mmq, busy: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy.transaction() as tx:
        tx.execute("UPDATE jobs SET name = 'a-name-as-long-as-they-are-in-practice-with-date-2026-11-22'")
    for columns in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        row = next(line for line in mmq("status").out.splitlines() if "running" in line)
        assert "virtual:0" in row


def test_a_cancelled_job_is_called_so_once(mmq: Mmq, store: Database, settings: Settings) -> None:
    queued(store, user_name=settings.user)
    mmq("cancel", "1")
    assert f"      cancelled by {settings.user} before it ran\n" in mmq("status").out
    assert f"note: job 1 has printed nothing yet: it is cancelled: cancelled by {settings.user}" in mmq("logs", "1").err
