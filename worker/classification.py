"""Why an attempt ended: one pure decision from what was seen. No I/O.

In this order: a finished result is a result, whoever wanted what; then what we ourselves asked for; then the
trainer's own word; then the bare exit.
"""

import signal as signals
from dataclasses import dataclass
from enum import StrEnum

from scheduler.jobs.states import EndReason, TrainerExit
from scheduler.units import format_duration
from worker.tail import TrainerEvent


class Intent(StrEnum):
    """What we asked the trainer to end for."""

    CANCEL = "cancel"  # a person wants it gone
    STOP = "stop"  # save, and go on later
    TIME_LIMIT = "time_limit"
    CLOSED = "closed"  # the store has ended this attempt already


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How the trainer's process ended. Both None: it was not our child, so nobody knows."""

    code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """All that was seen of an end."""

    exit: Exit
    last: TrainerEvent | None = None
    intent: Intent | None = None
    killed: bool = False  # it would not go on TERM, so we killed it
    result_exists: bool = False
    host_ran_out_of_memory: bool = False  # the kernel killed something for memory just then
    time_limit_seconds: float | None = None


_MEANINGS = {
    TrainerExit.BAD_CONFIGURATION: (EndReason.BAD_CONFIGURATION, "the trainer refused its configuration"),
    TrainerExit.BAD_DATA: (EndReason.BAD_DATA, "the trainer refused the data"),
    TrainerExit.STOPPED: (EndReason.STOPPED, "stopped after saving"),
    TrainerExit.OUT_OF_MEMORY: (EndReason.OUT_OF_MEMORY, "out of device memory"),
    TrainerExit.NON_FINITE_LOSS: (EndReason.NON_FINITE_LOSS, "the loss is not finite any more"),
    TrainerExit.TIME_LIMIT: (EndReason.TIME_LIMIT, "ran into its time limit, and saved"),
}
_NOT_ITS_TO_SAY = (EndReason.DONE, EndReason.CANCELLED, EndReason.LOST)
_TOLD_REASONS = tuple(reason for reason in EndReason if reason not in _NOT_ITS_TO_SAY)


def classify(ending: Ending) -> tuple[EndReason, str]:
    """The reason, and a sentence for people."""
    code = _code(ending)
    if code == TrainerExit.DONE and ending.result_exists:
        return EndReason.DONE, _done(ending.last)
    if ending.intent is not None:
        return _wanted(ending, ending.intent)
    if code == TrainerExit.DONE:
        return EndReason.NO_RESULT, "the trainer exited with code 0, but left no complete final/"
    if ending.exit.signal is not None:
        return _by_signal(ending, ending.exit.signal)
    if code is None:
        return EndReason.LOST, "the trainer is gone, and nobody was there to see how it ended"
    return _by_code(code, ending.last)


def known_code(last: TrainerEvent | None) -> int | None:
    """The exit code that the trainer's last event announces: all there is, if its parent was gone."""
    if last is None:
        return None
    if last["event"] == "finished":
        return TrainerExit.DONE
    code = last.get("exit_code") if last["event"] == "failed" else None
    return code if isinstance(code, int) else None


def _done(last: TrainerEvent | None) -> str:
    if last is None or last.get("stopped_early") is not True:
        return "done"
    return f"done: stopped early at step {last.get('step')}, with the weights of step {last.get('best_step')}"


def _code(ending: Ending) -> int | None:
    if ending.exit.code is None and ending.exit.signal is None:
        return known_code(ending.last)
    return ending.exit.code


def _wanted(ending: Ending, intent: Intent) -> tuple[EndReason, str]:
    how = ", killed because it did not stop in time" if ending.killed else ""
    match intent:
        case Intent.CANCEL:
            return EndReason.CANCELLED, f"cancelled{how}"
        case Intent.STOP:
            return EndReason.STOPPED, f"stopped on request{how or ' after saving'}"
        case Intent.TIME_LIMIT:
            limit = format_duration(ending.time_limit_seconds or 0)
            return EndReason.TIME_LIMIT, f"ran into its time limit of {limit}{how}"
        case Intent.CLOSED:
            return EndReason.LOST, "ended because the store had closed this attempt"


def _by_signal(ending: Ending, number: int) -> tuple[EndReason, str]:
    if number == signals.SIGKILL and ending.host_ran_out_of_memory:
        return EndReason.HOST_OUT_OF_MEMORY, "killed by the kernel: the host ran out of memory"
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = str(number)
    return EndReason.KILLED, f"killed by {name}, which mmq did not send"


def _by_code(code: int, last: TrainerEvent | None) -> tuple[EndReason, str]:
    reason, sentence = _MEANINGS.get(code, (EndReason.EXIT_CODE, f"the trainer exited with code {code}"))
    if last is None or last["event"] != "failed":
        return reason, sentence
    if reason is EndReason.EXIT_CODE and last.get("reason") in _TOLD_REASONS:
        reason = EndReason(str(last["reason"]))
    told = str(last.get("message") or "").replace("\nhint: ", "; ")
    return reason, told[:2000] or sentence
