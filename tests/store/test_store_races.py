"""Several processes at once: one winner, one job a key, no memory promised twice, nothing committed lost."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import attempts, audit, devices, jobs, sqlite
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from tests.processes import PATIENCE_SECONDS
from tests.store.racer import act_once
from tests.store.samples import GIB, admitted, ends, new_attempt, queued, settings_at, start, with_device

ROOT = Path(__file__).parents[2]


class Race:
    """Processes that have all opened the store and wait for the start."""

    def __init__(self, settings: Settings, driver: str, stack: ExitStack) -> None:
        self._common = {"home": str(settings.home), "url": settings.database_url, "lean": driver == "lean"}
        self._stack = stack
        self.runners: list[subprocess.Popen[str]] = []

    def add(self, role: str, **request: Any) -> subprocess.Popen[str]:
        request |= self._common | {"role": role}
        runner = subprocess.Popen(
            [sys.executable, "-m", "tests.store.racer", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._stack.callback(runner.communicate)
        self._stack.callback(runner.kill)
        self.runners.append(runner)
        return runner

    def go(self) -> None:
        for runner in self.runners:
            assert runner.stdout is not None
            assert runner.stdout.readline() == "ready\n"
        for runner in self.runners:
            assert runner.stdin is not None
            runner.stdin.write("go\n")
            runner.stdin.flush()

    def results(self) -> list[Any]:
        self.go()
        answers = [runner.communicate(timeout=PATIENCE_SECONDS)[0] for runner in self.runners]
        assert [runner.returncode for runner in self.runners] == [0] * len(self.runners)
        return [json.loads(answer) for answer in answers]


@pytest.fixture
def race(settings: Settings, driver: str, db: Database) -> Iterator[Race]:
    with ExitStack() as stack:
        yield Race(settings, driver, stack)


def test_each_attempt_is_claimed_by_exactly_one(db: Database, race: Race) -> None:
    waiting = [admitted(db, queued(db), reservations={}).id for _ in range(25)]
    for _ in range(4):
        race.add("claim", attempts=waiting)
    won = [id_ for winner in race.results() for id_ in winner]
    assert sorted(won) == waiting
    assert audit.violations(db) == []


def test_one_key_gives_one_job(db: Database, race: Race) -> None:
    keys = [f"key-{number}" for number in range(15)]
    for _ in range(4):
        race.add("submit", keys=keys)
    answers = race.results()
    assert all(answer == answers[0] for answer in answers)
    assert len(jobs.queue(db)) == len(keys)


def test_memory_is_never_promised_twice(db: Database, race: Race) -> None:
    waiting = [queued(db).id for _ in range(12)]
    for seed in range(4):
        race.add("admit", jobs=waiting, seed=seed)
    admitted_jobs = [id_ for answer in race.results() for id_ in answer]
    assert len(admitted_jobs) == len(set(admitted_jobs)) == 6
    assert sum(r.reserved_bytes for r in devices.reservations(db)) == 18 * GIB
    assert audit.violations(db) == []


def test_everything_at_once_leaves_the_store_in_order(db: Database, race: Race) -> None:
    waiting = [queued(db).id for _ in range(4)]
    for seed in range(3):
        race.add("disturb", jobs=waiting, seed=seed, actions=60)
    race.results()
    assert audit.violations(db) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_writer_killed_in_the_middle_loses_nothing_committed(db: Database, race: Race, seed: int) -> None:
    writer = race.add("write")
    race.go()
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(random.Random(seed).randint(3, 25))]
    writer.kill()
    told += map(int, writer.stdout.read().split())  # `communicate` would leave out what was read ahead of our lines
    kept = [job.id for job in jobs.queue(db)]
    assert kept[: len(told)] == told
    assert len(kept) - len(told) in (0, 1)  # the last one may be committed and not yet told
    assert queued(db).id > max(kept)
    assert audit.violations(db) == []


ORDERS = 1000


def _careless(home: Path) -> sqlite.SqliteDatabase:
    """A store that does not wait for the disk: durability is another test's, these are about order."""
    open_database(settings_at(home), lean=True, create=True).close()
    db = sqlite.SqliteDatabase(home / "mmq.db")
    db.execute("PRAGMA synchronous = OFF")
    with_device(db)
    return db


def test_a_cancel_wins_in_any_order(tmp_path: Path) -> None:
    """Cancel against admit, claim, start, finish and retry, in random orders: after its word, nothing starts."""
    dice = random.Random(7)
    with closing(_careless(tmp_path)) as db:
        for _ in range(ORDERS):
            _one_order(db, dice)
        assert audit.violations(db) == []


def _one_order(db: Database, dice: random.Random) -> None:
    job = queued(db)
    steps = ["admit", "claim", "start", "finish", "retry", "admit", "claim", "start", "cancel"]
    order = sorted(steps, key=lambda _step: dice.random()) if dice.random() < 0.5 else _late_cancel(steps, dice)
    acknowledged = False
    for step in order:
        before = jobs.get(db, job.id)
        _act(db, step, job.id, dice)
        after = jobs.get(db, job.id)
        if step == "retry" and before.state.ended and not after.state.ended:
            acknowledged = False  # a person wants it again
        if acknowledged:
            assert after.state in (before.state, JobState.CANCELLED, JobState.SUCCEEDED)
        acknowledged = acknowledged or (step == "cancel" and not before.state.ended)
    for attempt in attempts.of_job(db, job.id):
        attempts.finish(db, attempt.id, ends(EndReason.KILLED), at=9.0)
    if acknowledged:
        assert jobs.get(db, job.id).state in (JobState.CANCELLED, JobState.SUCCEEDED)


def _late_cancel(steps: list[str], dice: random.Random) -> list[str]:
    """The usual order, with the cancel anywhere in it."""
    order = steps[:-1]
    order.insert(dice.randrange(len(order) + 1), "cancel")
    return order


def _act(db: Database, step: str, job_id: int, dice: random.Random) -> None:
    live = [attempt for attempt in attempts.of_job(db, job_id) if attempt.ended_at is None]
    if step == "cancel":
        jobs.request_cancel(db, job_id, by="ada", at=5.0)
    elif step == "retry":
        with suppress(MmqError):  # it has not failed, nor been cancelled
            jobs.retry(db, job_id, at=6.0)
    elif step == "admit":
        attempts.admit(db, job_id, new_attempt(reservations={}), at=2.0)
    elif live and step == "claim":
        attempts.claim(db, live[0].id, at=3.0)
    elif live and step == "start" and live[0].claimed_at is not None:
        orders = attempts.shim_alive(db, live[0].id, shim_pid=1, shim_started=1, boot_id="b", at=3.5)
        if not orders.cancel:
            start(db, live[0].id)
    elif live and step == "finish":
        reason = dice.choice([EndReason.DONE, EndReason.KILLED, EndReason.OUT_OF_MEMORY, EndReason.STOPPED])
        attempts.finish(db, live[0].id, ends(reason), at=8.0)


def test_any_order_of_anything_keeps_the_invariants(tmp_path: Path) -> None:
    dice = random.Random(11)
    with closing(_careless(tmp_path)) as db:
        first = queued(db)
        waiting = [first.id, *(queued(db, depends_on=(first.id,)).id for _ in range(2)), queued(db).id]
        for _ in range(400):
            act_once(db, dice, dice.choice(waiting))
        assert audit.violations(db) == []
