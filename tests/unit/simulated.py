"""Jobs, machines and scripted policies for the tests of the simulation."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from hypothesis import strategies as st

from scheduler.simulation.hardware import Hardware, parse
from scheduler.simulation.knowledge import Oracle
from scheduler.simulation.moves import Move, Policy, View
from scheduler.simulation.physics import Outcome, World
from scheduler.simulation.workload import Job, in_order

GIB = 2**30
ONE = parse("1x24GiB")


def job(job_id: int = 1, **facts) -> Job:
    """A job whose figures come out even: without overhead, half a device's computing, 1 GiB and 1 GiB a sample."""
    plain = {
        "submit_seconds": 0.0,
        "user": "ada",
        "priority": 0,
        "alone_seconds": 1000.0,
        "utilisation": 0.5,
        "overhead": 0.0,
        "user_micro_batch": 4,
        "effective_batch": 8,
        "fixed_bytes": GIB,
        "bytes_per_sample": GIB,
        "declared_bytes": 8 * GIB,
        "estimate_seconds": 900.0,
    }
    return Job(job_id=job_id, **(plain | facts))


class Scripted:
    """Makes the moves that a function gives it; those of jobs that aren't where they would have to be are its fault."""

    def __init__(self, script: Callable[[View], Iterable[Move]]) -> None:
        self._script = script

    def moves(self, view: View) -> Iterable[Move]:
        return self._script(view)


class Recorded:
    """Another policy, with all it did and when."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.made: list[tuple[float, list[Move]]] = []

    def moves(self, view: View) -> Iterator[Move]:
        made = list(self._policy.moves(view))
        self.made.append((view.now, made))
        return iter(made)


def run(jobs: Sequence[Job], policy: Policy, hardware: Hardware = ONE, oracle: Oracle | None = None) -> Outcome:
    return World(jobs, hardware, policy, oracle or Oracle()).run()


def ends(outcome: Outcome) -> dict[int, float]:
    return {course.job.job_id: course.ended_at for course in outcome.courses}


@st.composite
def jobs(draw: st.DrawFn, most: int = 12) -> list[Job]:
    """A few jobs of every kind, close together in time."""
    drawn = [
        job(
            number,
            submit_seconds=draw(st.integers(0, 3000)),
            user=draw(st.sampled_from(["ada", "bob"])),
            priority=draw(st.integers(0, 1)),
            alone_seconds=draw(st.integers(10, 5000)),
            utilisation=draw(st.sampled_from([0.05, 0.3, 0.7, 1.0])),
            overhead=draw(st.sampled_from([0.0, 0.5, 4.0])),
            user_micro_batch=draw(st.sampled_from([1, 3, 8, 64])),
            effective_batch=draw(st.sampled_from([1, 8, 24, 64])),
            fixed_bytes=draw(st.integers(1, 12)) * GIB,
            bytes_per_sample=draw(st.integers(1, 40)) * GIB // 16,
            estimate_seconds=draw(st.integers(10, 5000)),
        )
        for number in range(1, draw(st.integers(1, most)) + 1)
    ]
    return in_order(
        msgspec.structs.replace(one, declared_bytes=2 * one.bytes_at(one.user_micro_batch)) for one in drawn
    )
