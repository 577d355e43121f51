"""What ended attempts took, as the corrections of later footprints read it."""

import json

from scheduler.jobs.states import EndReason
from scheduler.store import attempts, observations
from scheduler.store.database import Database
from scheduler.store.records import Progress
from scheduler.store.residuals import MeasuredPeak, measured_peaks
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
    peaks = measured_peaks(db, host="here", kind="cuda", latest=10)
    assert peaks == [MeasuredPeak(spec, 200, 260), MeasuredPeak(spec, 100, 130)]
    assert measured_peaks(db, host="here", kind="cuda", latest=1) == peaks[:1]


def test_each_plan_of_an_attempt_has_a_prediction_and_a_peak_of_its_own(db: Database) -> None:
    """Halved twice, once before anything was measured; the smallest was not predicted."""
    with_device(db)
    plan = json.dumps({"predicted": {"8": [70, 100, 110], "4": [40, 60, 70]}})
    attempt = running(db, queued(db), device="cuda:0", micro_batch=8, plan=plan, predicted_reserved_bytes=100)

    def columns_after(**progress: int) -> tuple[int | None, ...]:
        attempts.heartbeat(db, attempt.id, Progress(**progress), at=5.0)
        now = attempts.get(db, attempt.id)
        return now.predicted_reserved_bytes, now.predicted_process_bytes, now.measured_process_bytes

    assert columns_after(micro_batch=8, measured_process_bytes=125) == (100, None, 125)
    assert columns_after(micro_batch=4, measured_process_bytes=75) == (60, 70, 75)
    assert columns_after(measured_process_bytes=74) == (60, 70, 75)
    assert columns_after(micro_batch=2) == (None, None, None)
    observations.raise_process_peaks(db, [(attempt, 125)])  # read before it was halved
    attempts.finish(db, attempt.id, ends(EndReason.DONE, exit_code=0, measured_process_bytes=50, micro_batch=4), at=9.0)
    ended = attempts.get(db, attempt.id)
    assert (ended.predicted_reserved_bytes, ended.measured_process_bytes) == (60, 50)
    spec = new_job().spec
    assert measured_peaks(db, host="here", kind="cuda", latest=10) == [
        MeasuredPeak(spec, 60, 50),
        MeasuredPeak(spec, 100, 125),
        MeasuredPeak(spec, 60, 75),
    ]
    left = [json.loads(row["detail"]) for row in db.query("SELECT detail FROM events WHERE kind = 'plan_left'")]
    assert [plan["micro_batch"] for plan in left] == [8, 4, 2]
