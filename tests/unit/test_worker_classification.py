"""Why an attempt ended, from what was seen."""

import signal
from typing import Any

import pytest

from scheduler.jobs.states import EndReason
from worker.classification import Ending, Exit, Intent, classify

FINISHED = {"event": "finished"}


def failed(code: object, **more: Any) -> dict[str, Any]:
    return {"event": "failed", "exit_code": code, **more}


def result(code: object, reason: object) -> dict[str, Any]:
    return {"exit_code": code, "reason": reason, "message": "as it was", "rank": 1}


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending(exit=Exit(code=0), result_exists=True), EndReason.DONE),
        (Ending(exit=Exit(code=0)), EndReason.NO_RESULT),
        (Ending(exit=Exit(code=1)), EndReason.EXIT_CODE),
        (Ending(exit=Exit(code=2)), EndReason.BAD_CONFIGURATION),
        (Ending(exit=Exit(code=3)), EndReason.BAD_DATA),
        (Ending(exit=Exit(code=75)), EndReason.STOPPED),
        (Ending(exit=Exit(code=80)), EndReason.OUT_OF_MEMORY),
        (Ending(exit=Exit(code=81)), EndReason.NON_FINITE_LOSS),
        (Ending(exit=Exit(code=82)), EndReason.TIME_LIMIT),
        (Ending(exit=Exit(code=1), last=failed(1, reason="device_lost")), EndReason.DEVICE_LOST),
        (Ending(exit=Exit(code=1), last=failed(1, reason="done")), EndReason.EXIT_CODE),
        (Ending(exit=Exit(code=1), last=failed(1, reason=["odd"])), EndReason.EXIT_CODE),
        (Ending(exit=Exit(code=80), last=failed(80, reason="disk_full")), EndReason.OUT_OF_MEMORY),
        (Ending(exit=Exit(signal=signal.SIGSEGV)), EndReason.KILLED),
        (Ending(exit=Exit(signal=signal.SIGKILL)), EndReason.KILLED),
        (Ending(exit=Exit(signal=64)), EndReason.KILLED),
        (Ending(exit=Exit(signal=signal.SIGKILL), oom_killer="its log names it"), EndReason.HOST_OUT_OF_MEMORY),
        (Ending(exit=Exit(signal=signal.SIGTERM), oom_killer="its log names it"), EndReason.KILLED),
        (Ending(exit=Exit(signal=signal.SIGKILL), intent=Intent.CANCEL, killed=True), EndReason.CANCELLED),
        (Ending(exit=Exit(code=75), intent=Intent.STOP), EndReason.STOPPED),
        (Ending(exit=Exit(code=75), intent=Intent.TIME_LIMIT, time_limit_seconds=60), EndReason.TIME_LIMIT),
        (Ending(exit=Exit(code=0), intent=Intent.CANCEL, result_exists=True), EndReason.DONE),
        (Ending(exit=Exit(code=0), intent=Intent.CANCEL), EndReason.CANCELLED),
        (Ending(exit=Exit(code=75), intent=Intent.CLOSED), EndReason.LOST),
        (Ending(exit=Exit()), EndReason.LOST),
        (Ending(exit=Exit(), result_exists=True), EndReason.LOST),
        (Ending(exit=Exit(), oom_killer="its log names it"), EndReason.HOST_OUT_OF_MEMORY),
        (Ending(exit=Exit(), last=FINISHED, result_exists=True, oom_killer="it did"), EndReason.DONE),
        (Ending(exit=Exit(code=1), last=failed(1, reason="host_out_of_memory")), EndReason.HOST_OUT_OF_MEMORY),
        (Ending(exit=Exit(code=1), oom_killer="it did"), EndReason.EXIT_CODE),
        (Ending(exit=Exit(), last={"event": "step"}), EndReason.LOST),
        (Ending(exit=Exit(), last=FINISHED, result_exists=True), EndReason.DONE),
        (Ending(exit=Exit(), last=FINISHED), EndReason.NO_RESULT),
        (Ending(exit=Exit(), last=failed(80)), EndReason.OUT_OF_MEMORY),
        (Ending(exit=Exit(), last=failed("80")), EndReason.LOST),
        (Ending(exit=Exit(), intent=Intent.STOP), EndReason.STOPPED),
        (Ending(exit=Exit(signal=signal.SIGKILL), last=FINISHED, result_exists=True), EndReason.KILLED),
        # A launcher gives back 1 whatever its processes ended with; their result says more.
        (Ending(exit=Exit(code=1), result=result(75, "stopped")), EndReason.STOPPED),
        (Ending(exit=Exit(code=1), result=result(80, "out_of_memory")), EndReason.OUT_OF_MEMORY),
        (Ending(exit=Exit(code=1), result=result(81, "non_finite_loss")), EndReason.NON_FINITE_LOSS),
        (Ending(exit=Exit(code=1), result=result(1, "disk_full")), EndReason.DISK_FULL),
        (Ending(exit=Exit(code=1), result=result(1, "lost_process")), EndReason.EXIT_CODE),
        (
            Ending(exit=Exit(code=1), result=result(1, "lost_process"), oom_killer="its log names it"),
            EndReason.HOST_OUT_OF_MEMORY,
        ),
        (Ending(exit=Exit(code=1), result=result(0, "done"), result_exists=True), EndReason.EXIT_CODE),
        (Ending(exit=Exit(code=1), result=result("80", ["odd"])), EndReason.EXIT_CODE),
        (Ending(exit=Exit(), result=result(80, "out_of_memory")), EndReason.OUT_OF_MEMORY),
        (Ending(exit=Exit(signal=signal.SIGKILL), result=result(75, "stopped")), EndReason.KILLED),
        (Ending(exit=Exit(code=1), result=result(75, "stopped"), intent=Intent.CANCEL), EndReason.CANCELLED),
    ],
)
def test_reason(ending: Ending, reason: EndReason) -> None:
    found, message = classify(ending)
    assert found is reason
    assert message


def test_the_trainers_own_sentence_is_kept() -> None:
    ending = Ending(exit=Exit(code=3), last=failed(3, message="line 7: no field `text`"))
    assert classify(ending) == (EndReason.BAD_DATA, "line 7: no field `text`")


def test_a_killed_trainer_is_said_to_have_been_stubborn() -> None:
    ending = Ending(exit=Exit(signal=9), intent=Intent.TIME_LIMIT, killed=True, time_limit_seconds=5400)
    assert classify(ending)[1] == "ran into its time limit of 1h 30m, killed because it did not stop in time"


def test_an_early_stop_is_told() -> None:
    finished = {"event": "finished", "step": 30, "best_step": 20, "stopped_early": True}
    ending = Ending(exit=Exit(code=0), last=finished, result_exists=True)
    assert classify(ending) == (EndReason.DONE, "done: stopped early at step 30, with the weights of step 20")
    assert classify(Ending(exit=Exit(code=0), last=FINISHED, result_exists=True)) == (EndReason.DONE, "done")


def test_a_kill_that_nobody_is_known_for_is_said_to_be_one() -> None:
    reason, message = classify(Ending(exit=Exit(signal=signal.SIGKILL)))
    assert (reason, "not by mmq, and with no sign that the kernel did it" in message) == (EndReason.KILLED, True)
    killed = classify(Ending(exit=Exit(signal=signal.SIGKILL), oom_killer="its log names process 7"))
    assert killed[1] == "killed by the kernel, which ran out of host memory: its log names process 7"
