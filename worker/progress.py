"""A running attempt in numbers, as the store keeps them, from the trainer's events. Pure."""

from dataclasses import dataclass, field
from typing import Any

from scheduler.jobs.retries import Shortage
from scheduler.store.records import Progress
from worker.tail import TrainerEvent

NOTED = frozenset(
    {"out_of_memory", "checkpoint", "evaluation", "resized"}
)  # what a person would want in the job's story
_PEAKS = {
    "measured_allocated_bytes": "allocated_peak_bytes",
    "measured_reserved_bytes": "reserved_peak_bytes",
    "measured_process_bytes": "process_peak_bytes",
}
MAX_MAGNITUDE = 1e300  # a larger number is taken for none
_COUNTS = ("step", "total_steps", "micro_batch", "accumulation_steps")
_RATES = ("loss", "tokens_per_second", "eta_seconds", "busy_share")


@dataclass
class EventSummary:
    """What the trainer's events so far amount to."""

    numbers: dict[str, Any] = field(default_factory=dict)
    last: TrainerEvent | None = None
    shortage: Shortage | None = None  # of device memory, at which the trainer gave up

    def add(self, event: TrainerEvent) -> None:
        """Add one event. What should be a number and is none is passed over."""
        self.last = event
        if event["event"] == "out_of_memory":
            self.shortage = _shortage(event) or self.shortage
            event = event | _split_after(event)
        if event["event"] == "resized":
            self._note("heeded_number", _count(event.get("number")))
        before = self.numbers.get("micro_batch")
        for name in _COUNTS:
            self._note(name, _count(event.get(name)))
        if event["event"] in ("step", "finished"):
            for name in _RATES:
                self._note(name, _finite(event.get(name)))
            if "first_loss" not in self.numbers:
                self._note("first_loss", _finite(event.get("first_loss", event.get("loss"))))
        is_new_size = before not in (None, self.numbers.get("micro_batch"))
        if is_new_size:
            self.numbers = {name: number for name, number in self.numbers.items() if name not in _PEAKS}
        if is_new_size or event["event"] == "resized":
            self.numbers["peak_bytes"] = 0  # the trainer begins its peaks anew
        self._note_peaks(event)

    def _note_peaks(self, event: TrainerEvent) -> None:
        self._note_peak(_count(_peaks(event).get("process_peak_bytes")))
        for name, key in _PEAKS.items():
            peak = _count(_peaks(event).get(key))
            self._note(name, None if peak is None else max(peak, self.numbers.get(name, 0)))

    def progress(self) -> Progress:
        return Progress(**self.numbers)

    def _note_peak(self, peak_bytes: int | None) -> None:
        if peak_bytes is not None and peak_bytes > self.numbers.get("peak_bytes", 0):
            self.numbers |= {"peak_bytes": peak_bytes, "peak_step": self.numbers.get("step", 0)}

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self.numbers[name] = value


def happened_at(event: TrainerEvent) -> float | None:
    """The event's own time; None if it has none."""
    return _finite(event.get("at"))


def _peaks(event: TrainerEvent) -> dict[str, Any]:
    nested = event.get("peaks")
    return event | nested if isinstance(nested, dict) else event


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or not -MAX_MAGNITUDE < value < MAX_MAGNITUDE:
        return None
    return float(value)


def _shortage(event: TrainerEvent) -> Shortage | None:
    """Read a refusal that no smaller micro-batch followed, and that more than a look at the model was lost by."""
    phase = event.get("phase")
    if event.get("new_micro_batch") is not None or not isinstance(phase, str) or phase == "sample":
        return None
    counts = {name: _count(event.get(name)) for name in ("micro_batch", "needed_bytes", "limit_bytes")}
    return Shortage(phase=phase, **counts)


def _split_after(event: TrainerEvent) -> TrainerEvent:
    """How training is split after an out-of-memory: as before where it was not training that ran out."""
    shrunk = event.get("phase") not in ("evaluation", "sample")
    return {name: event.get(f"new_{name}") if shrunk else None for name in ("micro_batch", "accumulation_steps")}
