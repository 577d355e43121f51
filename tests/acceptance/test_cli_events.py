"""`mmq events`: the event log as lines and as JSON, of all jobs and of some, as it is and as it goes on."""

import json

from scheduler.jobs.states import EndReason
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from tests.acceptance.conftest import Meanwhile, Mmq
from tests.store.samples import ends, queued, running, with_device


def populate(store: Database) -> None:
    """Job 1 was killed and is queued again, job 2 waits."""
    with_device(store)
    killed = running(store, queued(store, name="first"))
    attempts.finish(store, killed.id, ends(EndReason.KILLED, exit_signal=9, message="killed by SIGKILL"), at=5.0)
    queued(store, name="second")


def test_each_line_has_job_attempt_what_and_why(mmq: Mmq, store: Database) -> None:
    populate(store)
    lines = [line.partition("  ")[2] for line in mmq("events").out.splitlines()]
    assert lines == [
        "job 1 (first): submitted -> queued",
        "job 1 (first) attempt 1: queued -> admitted: device virtual:0, micro batch 8, accumulation steps 2,"
        " reserved 4.0 GiB",
        "job 1 (first) attempt 1: claimed",
        "job 1 (first) attempt 1: admitted -> running: pid 100",
        "job 1 (first) attempt 1: running -> queued: killed by SIGKILL; retry 1 of 1",
        "job 2 (second): submitted -> queued",
    ]


def test_of_some_jobs_and_the_last_ones(mmq: Mmq, store: Database) -> None:
    populate(store)
    assert "job 1" not in mmq("events", "2").out
    assert len(mmq("events", "1", "-n", "2").out.splitlines()) == 2
    assert mmq("events", "9").code == 3


def test_json_has_an_object_a_line(mmq: Mmq, store: Database) -> None:
    populate(store)
    told = [json.loads(line) for line in mmq("events", "1", "--json").out.splitlines()]
    assert [event["to_state"] for event in told] == ["queued", "admitted", None, "running", "queued"]
    assert told[-1]["detail"]["reason"] == "killed"
    assert {"id", "job_id", "attempt_id", "at", "kind", "from_state", "to_state", "detail", "name", "attempt"} == set(
        told[0]
    )


def test_following_misses_nothing_and_ends_with_the_job(mmq: Mmq, store: Database, meanwhile: Meanwhile) -> None:
    populate(store)

    def go_on() -> None:
        again = running(store, jobs.get(store, 1))
        attempts.finish(store, again.id, ends(EndReason.DONE, message="done"), at=9.0)

    meanwhile(go_on)
    lines = mmq("events", "-f", "1").out.splitlines()
    assert len(lines) == 9
    assert lines[-1].endswith("job 1 (first) attempt 2: running -> succeeded: done")


def test_nothing_in_a_name_is_obeyed_by_a_terminal(mmq: Mmq, store: Database) -> None:
    queued(store, name="evil\x1b[2J\nname")
    assert mmq("events").out.count("\n") == 1
    assert "\x1b" not in mmq("events").out
