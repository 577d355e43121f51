"""Cancel, hold, release, retry and wait: what they do, to whose jobs, and with which exit code."""

import pytest

from scheduler.cli import context
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import attempts, jobs
from scheduler.store.database import Database, Writable
from scheduler.store.records import Job
from scheduler.store.transitions import move
from tests.acceptance.conftest import Meanwhile, Mmq
from tests.store.samples import ends, queued, running, with_device


@pytest.fixture
def mine(store: Database, settings: Settings) -> Database:
    """Job 1 runs, 2 and 3 wait: all of them one's own."""
    with_device(store)
    running(store, queued(store, name="runs", user_name=settings.user))
    queued(store, name="waits", user_name=settings.user)
    queued(store, name="waits-too", user_name=settings.user)
    return store


def states(store: Database) -> list[str]:
    return [row["state"] for row in store.query("SELECT state FROM jobs ORDER BY id")]


def test_a_waiting_job_is_cancelled_at_once(mmq: Mmq, mine: Database) -> None:
    done = mmq("cancel", "2-3")
    assert (done.code, done.out) == (0, "2 cancelled\n3 cancelled\n")
    assert states(mine) == ["running", "cancelled", "cancelled"]


def test_a_running_job_is_asked_to_end(mmq: Mmq, mine: Database, settings: Settings) -> None:
    done = mmq("cancel", "runs")
    assert done.out == "1 cancelling\n"
    assert "hint: mmq retry 1" in done.err
    assert jobs.get(mine, 1).cancel_requested_by == settings.user
    assert "cancelling" in mmq("status").out


def test_what_has_ended_is_said_to_have(mmq: Mmq, mine: Database) -> None:
    mmq("cancel", "2")
    done = mmq("cancel", "2")
    assert (done.code, done.out) == (0, "")
    assert done.err == "note: job 2 had ended already: cancelled\n"
    mmq("cancel", "3")
    assert mmq("cancel", "1-3") == (
        0,
        "1 cancelling\n",
        "note: jobs 2-3 had ended already: cancelled\n"
        "note: job 1 saves and ends; it can go on from there\n  hint: mmq retry 1\n",
    )


def test_hold_release_and_retry(mmq: Mmq, mine: Database) -> None:
    assert mmq("hold", "2").out == "2 held\n"
    assert mmq("release", "2").out == "2 queued\n"
    mmq("cancel", "2")
    assert mmq("retry", "2").out == "2 queued\n"
    done = mmq("retry", "1")
    assert done.code == 1
    assert done.err == "error: can't retry job 1: it is running, not failed or cancelled\n  hint: mmq status 1\n"


def test_wait_tells_the_reason_of_a_failure(mmq: Mmq, mine: Database) -> None:
    with mine.transaction() as tx:
        move(tx, 2, JobState.FAILED, at=1.0, reason=EndReason.DOES_NOT_FIT, message="needs at least 90 GiB")
    assert mmq("wait", "2") == (1, "2 failed (does not fit): needs at least 90 GiB\n", "")


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "retry"])
def test_another_s_job_is_left_alone(mmq: Mmq, mine: Database, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queued(mine, name="bobs", user_name="bob")
    before = states(mine)
    for name in ("USER", "LOGNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "bob")
    done = mmq(verb, "2", "bobs")
    assert done.code == 6
    assert "job 4 (bobs) belongs to bob" in done.err
    assert states(mine) == before


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "retry", "wait", "logs", "status"])
def test_no_such_job(mmq: Mmq, mine: Database, verb: str) -> None:
    assert mmq(verb, "99").code == 3


def test_wait_needs_every_job_to_succeed(mmq: Mmq, mine: Database) -> None:
    attempts.finish(mine, 1, ends(EndReason.DONE, exit_code=0), at=9.0)
    assert mmq("wait", "1") == (0, "1 succeeded\n", "")
    mmq("cancel", "2")
    assert mmq("wait", "1,2") == (1, "1 succeeded\n2 cancelled\n", "")


def test_wait_sees_the_end_of_a_job(mmq: Mmq, mine: Database, meanwhile: Meanwhile) -> None:
    meanwhile(lambda: attempts.finish(mine, 1, ends(EndReason.DONE, exit_code=0), at=9.0))
    assert mmq("wait", "1", "--timeout", "30s").out == "1 succeeded\n"


def test_wait_gives_up_in_time(mmq: Mmq, mine: Database) -> None:
    done = mmq("wait", "2", "--timeout", "0.2s")
    assert done.code == 1
    assert "note: the service is not running, so nothing starts" in done.err
    assert "have not ended yet: 2" in done.err
    assert mmq("wait", "2", "--timeout", "soon").code == 2


def test_a_chain_is_cancelled_and_none_of_it_fails(mmq: Mmq, mine: Database) -> None:
    with mine.transaction() as tx:
        tx.execute("INSERT INTO dependencies (job_id, depends_on) VALUES (3, 2)")
    done = mmq("cancel", "2-3")
    assert (done.out, done.err) == ("2 cancelled\n3 cancelled\n", "")
    assert states(mine) == ["running", "cancelled", "cancelled"]
    assert mmq("retry", "3,2").out == "2 queued\n3 queued\n"


def test_what_can_t_be_done_is_told_when_the_rest_is(mmq: Mmq, mine: Database) -> None:
    mmq("cancel", "3")
    done = mmq("hold", "1-3")
    assert (done.code, done.out) == (1, "2 held\n")
    assert done.err == (
        "error: can't hold job 1: it is running, not queued\n  hint: mmq status 1\n"
        "error: can't hold job 3: it is cancelled, not queued\n  hint: mmq status 3\n"
    )


def test_what_was_changed_is_told_though_the_store_fails_later(
    mmq: Mmq, mine: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        queued(mine, name=f"more-{number}", user_name=settings.user)
    real = jobs.hold

    def hold(database: Writable, job_id: int, *, at: float) -> Job:
        if job_id == 5:
            raise MmqError("the disk is full")
        return real(database, job_id, at=at)

    monkeypatch.setattr(context, "AT_ONCE", 2)
    monkeypatch.setattr(jobs, "hold", hold)
    done = mmq("hold", "2-6")
    assert (done.code, done.out.splitlines()) == (1, ["2 held", "3 held"])
    assert states(mine)[1:] == ["held", "held", "queued", "queued", "queued"]


def test_many_are_changed_at_once(mmq: Mmq, mine: Database, settings: Settings) -> None:
    for number in range(30):
        queued(mine, name=f"more-{number}", user_name=settings.user)
    began = mine.query("SELECT COUNT(*) AS n FROM events")[0]["n"]
    assert len(mmq("cancel", "2-33").out.splitlines()) == 32
    assert set(states(mine)[1:]) == {"cancelled"}
    rows = mine.query("SELECT at, COUNT(*) AS n FROM events WHERE id > :began GROUP BY kind", began=began)
    assert {row["n"] for row in rows} == {32}
    refused = mmq("hold", "2-33")
    assert len([line for line in refused.err.splitlines() if line.startswith("error:")]) == 21
    assert refused.err.endswith("error: and 12 more like these\n")
