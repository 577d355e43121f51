"""`docs/troubleshooting.md` has every reason for an end and every code of waiting, and says rightly what follows."""

import pytest

from scheduler.jobs.retries import AttemptFacts, JobFacts, Outcome, verdict
from scheduler.jobs.states import EndReason, JobState, WaitCode
from tests.unit.pages import page, spans

PAGE = page("troubleshooting.md")
ADMISSION = page("admission.md")
BEFORE_ANY_ATTEMPT = (EndReason.DEPENDENCY_FAILED, EndReason.DOES_NOT_FIT)


def documented(heading: str) -> dict[str, list[str]]:
    return {spans(row[0])[0]: row[1:] for row in PAGE.table(heading)}


def test_every_code_of_waiting_has_a_remedy_and_a_meaning() -> None:
    assert set(documented("Why it waits")) == set(WaitCode)
    assert {span for row in ADMISSION.table("One cycle") for span in spans(row[0])} == set(WaitCode)


def test_every_reason_is_there() -> None:
    assert set(documented("Why it ended")) == set(EndReason)


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason not in BEFORE_ANY_ATTEMPT])
def test_what_follows_is_the_verdict(reason: EndReason) -> None:
    written = documented("Why it ended")[reason][1]
    job = JobFacts(out_of_memory_allowed=1, crash_allowed=1)
    attempt = AttemptFacts(micro_batch=8, stop_requested=reason is EndReason.STOPPED)
    decided = verdict(job, attempt, Outcome(reason=reason))
    counted = decided.out_of_memory_retries + decided.crash_retries
    ended = "ends" if decided.state is not JobState.QUEUED else "again" if counted else "again, uncounted"
    assert written == ended
