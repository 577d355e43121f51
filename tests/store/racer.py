"""A process of its own that races others in the store: opens it, says "ready", waits for "go", acts, prints JSON."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scheduler.errors import MmqError, NotNow
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from tests.store.samples import DEVICE, GIB, ends, new_attempt, new_job, settings_at, start


def claim(db: Database, request: dict[str, Any]) -> list[int]:
    """Try to win each attempt; answer those won."""
    return [id_ for id_ in request["attempts"] if attempts.claim(db, id_, at=3.0) is not None]


def submit(db: Database, request: dict[str, Any]) -> list[int]:
    return [jobs.submit(db, new_job(submit_key=key), at=1.0).id for key in request["keys"]]


def admit(db: Database, request: dict[str, Any]) -> list[int]:
    """Try to promise memory to each job; answer those admitted."""
    order = random.Random(request["seed"]).sample(request["jobs"], len(request["jobs"]))
    new = new_attempt(reservations={DEVICE: 3 * GIB})
    return [id_ for id_ in order if attempts.admit(db, id_, new, at=2.0) is not None]


def write(db: Database, _request: dict[str, Any]) -> None:
    """Submit job after job until killed, telling each once it is committed."""
    while True:
        print(jobs.submit(db, new_job(source="x" * 20_000), at=1.0).id, flush=True)


def disturb(db: Database, request: dict[str, Any]) -> None:
    """Do what everybody does, in any order."""
    dice = random.Random(request["seed"])
    for _ in range(request["actions"]):
        act_once(db, dice, dice.choice(request["jobs"]))


def act_once(db: Database, dice: random.Random, job_id: int) -> None:
    """Do one thing to a job that somebody might do at any time; what is refused is refused."""
    live = [attempt.id for attempt in attempts.of_job(db, job_id) if attempt.ended_at is None]
    reason = dice.choice([EndReason.DONE, EndReason.KILLED, EndReason.OUT_OF_MEMORY, EndReason.STOPPED])
    actions: list[Callable[[], object]] = [
        lambda: jobs.request_cancel(db, job_id, by="ada", at=5.0),
        lambda: jobs.retry(db, job_id, at=6.0),
        lambda: jobs.hold(db, job_id, at=6.0),
        lambda: jobs.release(db, job_id, at=6.0),
        lambda: attempts.admit(db, job_id, new_attempt(), at=7.0),
        lambda: attempts.admit(db, job_id, new_attempt(), at=7.0),
    ]
    for id_ in live:
        actions += [
            lambda id_=id_: attempts.claim(db, id_, at=8.0),
            lambda id_=id_: start_if_claimed(db, id_),
            lambda id_=id_: attempts.finish(db, id_, ends(reason), at=9.0),
        ]
    try:
        dice.choice(actions)()
    except MmqError as error:
        if type(error) not in (MmqError, NotNow):
            raise  # an illegal move, a broken store


def start_if_claimed(db: Database, attempt_id: int) -> None:
    """As a shim does: only one that won its claim starts a trainer, unless its orders say no."""
    attempt = attempts.get(db, attempt_id)
    if attempt.claimed_at is None:
        return
    orders = attempts.shim_alive(db, attempt_id, shim_pid=1, shim_started=1, boot_id="b", at=8.0)
    if not (orders.cancel or orders.stop):
        start(db, attempt_id)


ROLES: dict[str, Callable[[Database, dict[str, Any]], object]] = {
    "claim": claim,
    "submit": submit,
    "admit": admit,
    "write": write,
    "disturb": disturb,
}


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = settings_at(Path(request["home"]), request["url"])
    db = open_database(settings, lean=request["lean"])
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(ROLES[request["role"]](db, request)), flush=True)


if __name__ == "__main__":
    main()
