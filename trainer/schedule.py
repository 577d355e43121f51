"""What is due after each optimizer step, and how often it still comes: pure, from the intervals alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps are counted from 1. None: not before the end, or (evaluations) never."""

    total_steps: int
    log_interval: int
    save_interval: int
    eval_interval: int | None
    sample_interval: int | None

    @classmethod
    def of(cls, train: TrainConfig, total_steps: int, *, validates: bool) -> "Schedule":
        return cls(
            total_steps=total_steps,
            log_interval=train.log_interval,
            save_interval=train.save_interval,
            eval_interval=(train.eval_interval or train.save_interval) if validates else None,
            sample_interval=train.sample_interval,
        )

    def logs(self, step: int) -> bool:
        return self._due(step, self.log_interval)

    def saves(self, step: int) -> bool:
        return self._due(step, self.save_interval)

    def evaluates(self, step: int) -> bool:
        return self.eval_interval is not None and self._due(step, self.eval_interval)

    def samples(self, step: int) -> bool:
        """Say whether a text is due in the middle; that of the end is the result's."""
        return self.sample_interval is not None and step < self.total_steps and step % self.sample_interval == 0

    def left(self, step: int) -> Mapping[str, int]:
        """Count what is still to come after a step."""
        intervals = {"save": self.save_interval, "evaluation": self.eval_interval}
        counts = {name: self._left(step, interval) for name, interval in intervals.items() if interval}
        return counts | {"sample": self._left(step, self.sample_interval or self.total_steps)}

    def _due(self, step: int, interval: int) -> bool:
        return step == self.total_steps or step % interval == 0

    def _left(self, step: int, interval: int) -> int:
        return -(-self.total_steps // interval) - step // interval if step < self.total_steps else 0
