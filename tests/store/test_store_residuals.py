"""What ended attempts took, as the corrections of later footprints read it."""

from scheduler.jobs.states import EndReason
from scheduler.store import attempts
from scheduler.store.database import Database
from scheduler.store.residuals import Taken, taken
from tests.store.samples import ends, new_job, queued, running, with_device


def attempt_on(db: Database, device: str, *, predicted: int | None, measured: int | None, host: str = "here") -> None:
    attempt = running(db, queued(db), device=device, host=host, predicted_reserved_bytes=predicted)
    attempts.finish(db, attempt.id, ends(EndReason.DONE, exit_code=0, measured_process_bytes=measured), at=9.0)


def test_the_latest_ended_attempts_of_a_kind_on_a_host_are_read(db: Database) -> None:
    with_device(db)
    attempt_on(db, "cuda:0", predicted=100, measured=130)
    attempt_on(db, "cuda:1", predicted=200, measured=260)
    attempt_on(db, "cpu:0", predicted=1, measured=1)
    attempt_on(db, "cuda:0", predicted=1, measured=1, host="elsewhere")
    attempt_on(db, "cuda:0", predicted=None, measured=1)
    attempt_on(db, "cuda:0", predicted=1, measured=None)
    running(db, queued(db), device="cuda:0", predicted_reserved_bytes=1)  # not ended
    spec = new_job().spec
    found = taken(db, host="here", kind="cuda", latest=10)
    assert found == [Taken(spec, 200, 260), Taken(spec, 100, 130)]
    assert taken(db, host="here", kind="cuda", latest=1) == found[:1]
