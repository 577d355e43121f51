"""A scheduler in the simulation knows what it may: before a first step neither `alone_seconds` nor `utilisation`."""

import ast
import random
from dataclasses import fields, is_dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.simulation import baselines, moves, service
from scheduler.simulation.hardware import parse
from scheduler.simulation.knowledge import Known, Oracle, Told
from scheduler.simulation.moves import View
from scheduler.simulation.physics import START_SECONDS
from scheduler.simulation.policies import POLICIES
from scheduler.simulation.workload import Job
from tests.unit import simulated
from tests.unit.simulated import Recorded, Scripted, job, run

HIDDEN = ("alone_seconds", "utilisation")


class SameStory(Oracle):
    """Tells of every job what it would tell of another with the same id, and measures the job itself."""

    def __init__(self, told: list[Job]) -> None:
        super().__init__()
        self._told = {one.job_id: one for one in told}

    def tell(self, job: Job) -> Told:
        return super().tell(self._told[job.job_id])


def before_any_step(recorded: Recorded) -> list:
    began = min((at for at, made in recorded.made if made), default=0.0)
    return [(at, made) for at, made in recorded.made if at < began + START_SECONDS]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(jobs=simulated.jobs(), seed=st.integers(0, 2**32))
def test_what_is_hidden_moves_nothing_before_a_first_step(policy: str, jobs: list[Job], seed: int) -> None:
    draw = random.Random(seed)
    crowded = [msgspec.structs.replace(one, submit_seconds=one.submit_seconds % 12) for one in jobs]
    others = [
        msgspec.structs.replace(one, alone_seconds=draw.uniform(1, 9999), utilisation=draw.uniform(0.01, 1))
        for one in crowded
    ]
    seen = [Recorded(POLICIES[policy].make()) for _ in range(2)]
    for truth, recorded in zip((crowded, others), seen, strict=True):
        run(simulated.in_order(truth), recorded, parse("2x24GiB"), SameStory(crowded))
    assert before_any_step(seen[0]) == before_any_step(seen[1])
    assert before_any_step(seen[0])


def reachable(value: object, seen: set[int]) -> list[object]:
    """Everything that can be read from a value by its attributes and items."""
    if id(value) in seen or isinstance(value, str | int | float | bool | None):
        return [value]
    seen.add(id(value))
    found: list[object] = [value]
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif is_dataclass(value):
        parts = [getattr(value, one.name) for one in fields(value)]
    else:
        parts = [getattr(value, name) for name in getattr(value, "__slots__", ())] + list(vars(value).values())
    for part in parts:
        found += reachable(part, seen)
    return found


def test_no_way_leads_from_what_a_policy_sees_to_the_truth() -> None:
    checked = []

    def script(view: View) -> list:
        found = reachable(view, set())
        assert not any(isinstance(one, Job) for one in found)
        if view.now < START_SECONDS:
            assert 1234.5 not in found
            assert 0.4321 not in found
        checked.append(view.now)
        return [moves.Start(known.job_id, 0, 1, 24 * 2**30) for known in view.queue]

    run([job(alone_seconds=1234.5, utilisation=0.4321)], Scripted(script))
    assert len(checked) == 3


@pytest.mark.parametrize("module", [service, baselines])
def test_policies_import_nothing_that_has_the_truth(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name and name.startswith("scheduler.simulation")}
    assert ours <= {"scheduler.simulation.knowledge", "scheduler.simulation.moves"}


def test_the_facts_of_the_service_have_no_field_for_it() -> None:
    for value in (Known, Told):
        assert not {one.name for one in fields(value)} & set(HIDDEN)


@given(seed=st.integers(0, 10**6), job_id=st.integers(0, 10**6))
def test_errors_stay_within_what_was_allowed(seed: int, job_id: int) -> None:
    oracle, one = Oracle(seed=seed, footprint_error=0.05), job(job_id, utilisation=0.9)
    told, seen = oracle.tell(one), oracle.measure(one)
    assert told.before.seconds == one.estimate_seconds
    assert 0.72 <= told.before.utilisation <= 1.0
    assert all(1 <= c.process_bytes / one.bytes_at(c.micro_batch) <= 1.106 for c in told.before.footprint.candidates)
    assert 950 <= seen.seconds <= 1050
    assert seen.utilisation == one.utilisation
    assert all(c.process_bytes == one.bytes_at(c.micro_batch) for c in seen.footprint.candidates)


def test_errors_belong_to_seed_and_job() -> None:
    one, other = job(1), job(2)
    assert Oracle(seed=1).measure(one).seconds == Oracle(seed=1).measure(one).seconds
    assert len({Oracle(seed=seed).measure(each).seconds for seed in (1, 2) for each in (one, other)}) == 4


def test_exact_footprints_are_exact() -> None:
    candidates = Oracle().tell(job()).before.footprint.candidates
    assert [(c.micro_batch, c.process_bytes) for c in candidates] == [(b, job().bytes_at(b)) for b in (1, 2, 4, 8)]


def test_a_known_job_becomes_the_facts_of_the_service() -> None:
    known = Known(told=Oracle().tell(job(3, overhead=2.0, priority=1)))
    queued = known.queued(now=60.0)
    assert (queued.job_id, queued.priority, queued.waited_seconds, queued.resumes) == (3, 1, 60.0, False)
    assert (queued.pace.seconds, queued.pace.micro_batch, queued.pace.overhead) == (900.0, 4, 2.0)
    known.micro_batch, known.given_bytes, known.steps_at, known.done = 2, 3 * 2**30, 75.0, 0.25
    running = known.running(70.0, "gpu-0")
    assert (running.candidate.micro_batch, running.starts_in_seconds, running.preemptible) == (2, 5.0, False)
    assert running.pace.seconds == 675.0
    assert known.running(80.0, "gpu-0").preemptible
