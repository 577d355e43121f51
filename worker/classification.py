"""Why an attempt ended: one pure decision from what was seen. No I/O.

In this order: a finished result is a result, whoever wanted what; then what we ourselves asked for; then the
trainer's own word; then the bare exit.
"""

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from scheduler.jobs.states import EndReason, TrainerExit
from scheduler.processes.signalling import signal_name
from scheduler.units import format_duration
from worker.tail import TrainerEvent

Value = TypeVar("Value", str, int)


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
    result: Mapping[str, Any] | None = None  # the trainer's own word, which a launcher's exit code does not tell
    result_exists: bool = False
    oom_killer: str | None = None  # what speaks for the kernel having killed it for memory
    time_limit_seconds: float | None = None
    rebooted: bool = False  # the host, since it was started


_MEANINGS = {
    TrainerExit.BAD_CONFIGURATION: (EndReason.BAD_CONFIGURATION, "the trainer refused its configuration"),
    TrainerExit.BAD_DATA: (EndReason.BAD_DATA, "the trainer refused the data"),
    TrainerExit.STOPPED: (EndReason.STOPPED, "stopped after saving"),
    TrainerExit.OUT_OF_MEMORY: (EndReason.OUT_OF_MEMORY, "out of device memory"),
    TrainerExit.NON_FINITE_LOSS: (EndReason.NON_FINITE_LOSS, "the loss is no longer finite"),
    TrainerExit.TIME_LIMIT: (EndReason.TIME_LIMIT, "ran into its time limit, and saved"),
}
_FAILED = 1  # of a launcher: one of its processes did, or was told to stop
_LOST_PROCESS = "lost_process"  # the trainer's reason where it does not know what became of another of its processes
_NOT_THE_TRAINERS = (EndReason.DONE, EndReason.CANCELLED, EndReason.LOST)
_TRAINER_REASONS = tuple(reason for reason in EndReason if reason not in _NOT_THE_TRAINERS)


def classify(ending: Ending) -> tuple[EndReason, str]:
    """The reason, and a sentence for people."""
    code = code_of(ending)
    if code == TrainerExit.DONE and ending.result_exists:
        return EndReason.DONE, _done(ending.last)
    if ending.intent is not None:
        return _wanted(ending, ending.intent)
    if code == TrainerExit.DONE:
        return EndReason.NO_RESULT, "the trainer exited with code 0, but left no complete final/"
    if ending.exit.signal is not None:
        return _by_signal(ending, ending.exit.signal)
    lost = code is None or _field(ending.result, "reason", str) == _LOST_PROCESS
    if lost and ending.oom_killer is not None:
        return _by_kernel(ending.oom_killer)
    if code is None:
        rebooted = "the host was rebooted while it ran"
        return EndReason.LOST, rebooted if ending.rebooted else "the trainer is gone, and nobody saw how it ended"
    return _by_code(code, _failure(ending))


def code_of(ending: Ending) -> int | None:
    """The exit code: the trainer's, where its launcher's says no more than that it failed; None if none is known."""
    code, reported = ending.exit.code, _field(ending.result, "exit_code", int)
    if ending.exit.signal is not None:
        return None
    if code is None:
        announced = announced_code(ending.last)
        return reported if announced is None else announced
    return reported if code == _FAILED and reported else code


def _failure(ending: Ending) -> Mapping[str, Any] | None:
    """What the trainer says of its failure: in its last event, else in its result, where the first process is gone."""
    if ending.last is not None and ending.last["event"] == "failed":
        return ending.last
    return ending.result if _field(ending.result, "exit_code", int) else None


def _field(result: Mapping[str, Any] | None, name: str, kind: type[Value]) -> Value | None:
    value = None if result is None else result.get(name)
    return value if isinstance(value, kind) and (kind is str or _is_code(value)) else None


def _is_code(value: object) -> bool:
    """Whether a trainer's word is an exit code that a process can have."""
    return isinstance(value, int) and 0 <= value < 256


def announced_code(last: TrainerEvent | None) -> int | None:
    """The exit code that the trainer's last event announces: all there is, if its parent was gone."""
    if last is None:
        return None
    if last["event"] == "finished":
        return TrainerExit.DONE
    code = last.get("exit_code") if last["event"] == "failed" else None
    return code if isinstance(code, int) and _is_code(code) else None


def _done(last: TrainerEvent | None) -> str:
    if last is None or last.get("stopped_early") is not True:
        return "done"
    return f"done: stopped early at step {last.get('step')}, with the weights of step {last.get('best_step')}"


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
    if number == signals.SIGKILL and ending.oom_killer is not None:
        return _by_kernel(ending.oom_killer)
    if number == signals.SIGKILL:
        return (
            EndReason.KILLED,
            "killed by SIGKILL, not by mmq, and with no sign that the kernel did it for lack of memory",
        )
    return EndReason.KILLED, f"killed by {signal_name(number)}, which mmq did not send"


def _by_kernel(evidence: str) -> tuple[EndReason, str]:
    return EndReason.HOST_OUT_OF_MEMORY, f"killed by the kernel, which ran out of host memory: {evidence}"


def _by_code(code: int, failure: Mapping[str, Any] | None) -> tuple[EndReason, str]:
    reason, sentence = _MEANINGS.get(code, (EndReason.EXIT_CODE, f"the trainer exited with code {code}"))
    if failure is None:
        return reason, sentence
    if reason is EndReason.EXIT_CODE and failure.get("reason") in _TRAINER_REASONS:
        reason = EndReason(str(failure["reason"]))
    message = str(failure.get("message") or "").replace("\nhint: ", "; ")
    return reason, message[:2000] or sentence
