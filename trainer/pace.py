"""How fast a run goes, and how long it still takes. Owns no training state."""

import time
from collections.abc import Callable


class Pace:
    """Speed since the last report, and time left by the mean step of this attempt, saves and all.

    The first step warms caches and kernels: it is left out of the mean as soon as there are others.
    """

    def __init__(self, step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_step = step
        self._began_at = self._reported_at = clock()
        self._warm_at: float | None = None
        self._tokens = 0

    def step_done(self, tokens: int) -> None:
        self._tokens += tokens
        if self._warm_at is None:
            self._warm_at = self._clock()

    def report(self, step: int, total_steps: int) -> dict[str, float]:
        """Give target tokens a second since the last report, and the seconds left."""
        now = self._clock()
        speed = self._tokens / max(now - self._reported_at, 1e-9)
        self._tokens, self._reported_at = 0, now
        steps, since = step - self._began_step, self._began_at
        if steps > 1 and self._warm_at is not None:
            steps, since = steps - 1, self._warm_at
        return {"tokens_per_second": speed, "eta_seconds": (now - since) / steps * (total_steps - step)}
