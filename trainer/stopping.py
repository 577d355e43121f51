"""What ends a run before its last step: SIGTERM, its time, or a validation loss that gets no better.

SIGHUP, sent when a terminal closes, is no reason to. Owns the rules; the loop acts on them.
"""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from trainer.config import Config
from trainer.errors import NonFiniteLoss, Stopped, TimeLimitReached

LONGEST_SECONDS = 1e12  # nobody has trained that long: the line is not ours
TAIL_BYTES = 1 << 18  # of the events: many more than stand between two lines that tell the time
CHECKPOINT_BYTES_PER_PARAMETER = 12  # the weight and its two moments
SAVED_BYTES_PER_SECOND = 200e6  # a guess, until a save has been measured


class StopRequest:
    """Truthy once SIGTERM has arrived. The handler only notes it; the loop acts."""

    def __init__(self) -> None:
        self.began_at = time.monotonic()  # of this process, or nearly
        self._requested = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return self._requested

    def check(self) -> None:
        """End a phase in which nothing needs saving."""
        if self._requested:
            raise Stopped("stopped before the first step; nothing to save")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested = True


class TimeLimit:
    """The time of a whole run, over its attempts: `near` while there is just enough left for a step and a save.

    What a killed attempt did after its last event is not known, and not counted. A run that has used up its time and
    is begun again has as much once more.
    """

    def __init__(
        self,
        limit_seconds: float | None,
        *,
        used_seconds: float,
        began_at: float,
        checkpoint_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_seconds = limit_seconds
        self._used_seconds = used_seconds
        self._began_at = began_at
        self._clock = clock
        self._save_seconds = checkpoint_bytes / SAVED_BYTES_PER_SECOND
        self._waited_at = clock()
        self._steps_seconds = 0.0

    @classmethod
    def of(cls, config: Config, stop: StopRequest, *, used_seconds: float, parameters: int) -> "TimeLimit":
        return cls(
            config.time_limit_seconds,
            used_seconds=used_seconds,
            began_at=stop.began_at,
            checkpoint_bytes=CHECKPOINT_BYTES_PER_PARAMETER * parameters,
        )

    @property
    def elapsed_seconds(self) -> float:
        return self._used_seconds + self._clock() - self._began_at

    @property
    def near(self) -> bool:
        return self._is_over(self._steps_seconds + self._save_seconds)

    @property
    def over(self) -> bool:
        return self._is_over(0.0)

    def waited(self) -> None:
        """Note that the device has done all steps so far: no stretch of them took longer than this."""
        now = self._clock()
        self._steps_seconds = max(self._steps_seconds, now - self._waited_at)
        self._waited_at = now

    def stood_aside(self) -> None:
        """Note that what was done since the device was waited for was no step."""
        self._waited_at = self._clock()

    def saved(self, longest_seconds: float) -> None:
        self._save_seconds = longest_seconds

    def reached(self, step: int, total_steps: int, *, saved: bool) -> TimeLimitReached:
        saving = "it is saved" if saved else "nothing was done in this attempt"
        used, limit = self.elapsed_seconds, self._limit_seconds or 0.0
        return TimeLimitReached(
            f"ran into its time limit of {limit:.6g} s: {used:,.1f} s are used up after step {step} of {total_steps}, "
            f"and another with its save would not fit; {saving}"
        )

    def _is_over(self, needed_seconds: float) -> bool:
        return self._limit_seconds is not None and self.elapsed_seconds + needed_seconds >= self._limit_seconds


def used_seconds(events: Path) -> float:
    """Read how long the attempts before have trained: what the last event that says so says."""
    if not events.exists():
        return 0.0
    with events.open("rb") as file:
        file.seek(max(0, events.stat().st_size - TAIL_BYTES))
        lines = file.read().splitlines()
    used = 0.0
    for line in lines:
        try:
            event = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            continue  # cut short by a kill, or by us
        if not isinstance(event, dict):
            continue
        if isinstance(elapsed := event.get("elapsed_seconds"), int | float) and 0 <= elapsed < LONGEST_SECONDS:
            used = float(elapsed)
        if (event.get("event"), event.get("reason")) == ("failed", "time_limit"):
            used = 0.0
    return used


class Validation(msgspec.Struct, kw_only=True):
    """How the validation loss went; part of a run's state, so that a resumed run stops where it would have."""

    best_loss: float | None = None
    best_step: int | None = None
    since_best: int = 0  # evaluations

    def note(self, loss: float, step: int) -> bool:
        """Take in a loss; True for the best so far. A loss that is not finite ends the run."""
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"step {step}: the validation loss is {loss}; the last checkpoint is from before that"
                "\nhint: lower train.learning_rate, or train.dtype: bfloat16 instead of float16"
            )
        better = self.best_loss is None or loss < self.best_loss
        if better:
            self.best_loss, self.best_step, self.since_best = loss, step, 0
        else:
            self.since_best += 1
        return better

    def is_over(self, patience: int | None) -> bool:
        return patience is not None and self.since_best >= patience
