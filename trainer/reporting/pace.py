"""How fast a run goes, and how long it still takes. Owns no training state."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Spent:
    """How often something was done, and how long it took."""

    times: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        self.times, self.seconds = self.times + times, self.seconds + seconds
        self.longest_seconds = max(self.longest_seconds, seconds)

    @property
    def mean_seconds(self) -> float:
        return self.seconds / self.times if self.times else 0.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Since the last report; speeds are without what was done between the steps, the share is of everything."""

    tokens_per_second: float  # target tokens
    flops_per_second: float
    busy_share: float  # of the time, in which the device had something to compute


class Pace:
    """Speed of the steps alone; the time left is that of the steps and of all that is still to be done between them.

    What has not been done yet in this attempt counts for nothing: the time left is too short until the first of its
    kind. The first steps warm caches and kernels: they leave the mean as soon as there are others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()  # the last report, put off by what was done between the steps
        self._warming, self._steps = Spent(), Spent()
        self._between: dict[str, Spent] = {}
        self._tokens, self._flops, self._new_steps = 0, 0.0, 0
        self._fetching_seconds = self._aside_seconds = 0.0

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Measure what is waited for: rows, and their way into a batch."""
        began_at = self._clock()
        yield
        self._fetching_seconds += self._clock() - began_at

    def step_done(self, tokens: int, flops: float = 0.0) -> None:
        self._tokens, self._flops, self._new_steps = self._tokens + tokens, self._flops + flops, self._new_steps + 1

    @contextmanager
    def aside(self, name: str) -> Iterator[Spent]:
        """Measure what is done between two steps; the device has done those before."""
        began_at, spent = self._clock(), self._between.setdefault(name, Spent())
        try:
            yield spent
        finally:
            spent.add(seconds := self._clock() - began_at)
            self._since += seconds
            self._aside_seconds += seconds

    def report(self) -> Speed:
        """Give the speed since the last report, and take its steps into the mean; the device has done them."""
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        busy_seconds = max(0.0, seconds - self._fetching_seconds)
        speed = Speed(
            tokens_per_second=self._tokens / seconds,
            flops_per_second=self._flops / seconds,
            busy_share=busy_seconds / (seconds + self._aside_seconds),
        )
        (self._steps if self._warming.times else self._warming).add(seconds, self._new_steps)
        self._tokens, self._flops, self._new_steps, self._since = 0, 0.0, 0, now
        self._fetching_seconds = self._aside_seconds = 0.0
        return speed

    def left_seconds(self, steps: int, between: Mapping[str, int]) -> float:
        """Give the time that so many steps take, with so many of each thing between them."""
        step_seconds = (self._steps if self._steps.times else self._warming).mean_seconds
        others = (self._between.get(name, Spent()).mean_seconds * times for name, times in between.items())
        return steps * step_seconds + sum(others)
