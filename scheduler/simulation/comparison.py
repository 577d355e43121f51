"""Policies and devices side by side, on one workload."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.simulation.bounds import bounds
from scheduler.simulation.fairness import ideal_completions
from scheduler.simulation.hardware import Hardware
from scheduler.simulation.knowledge import Oracle
from scheduler.simulation.measures import Measures, measures
from scheduler.simulation.physics import Outcome, World
from scheduler.simulation.policies import POLICIES
from scheduler.simulation.workload import Job


@dataclass(frozen=True, kw_only=True)
class Result:
    policy: str
    outcome: Outcome
    measures: Measures

    def as_json(self) -> dict[str, Any]:
        return {"devices": self.outcome.hardware.name, "policy": self.policy, **self.measures.as_json()}


def compare(
    jobs: Sequence[Job],
    settings: Sequence[Hardware],
    policies: Sequence[str],
    *,
    oracle: Oracle = Oracle(),  # noqa: B008  a value
) -> Iterator[Result]:
    """Run each policy on each set of devices; all of them are told the same."""
    for hardware in settings:
        limits = bounds(jobs, hardware)
        ideal = ideal_completions(jobs, hardware.devices)
        for name in policies:
            outcome = World(jobs, hardware, POLICIES[name].make(), oracle).run()
            yield Result(policy=name, outcome=outcome, measures=measures(outcome, limits, ideal))
