"""What the admission cycle must never do, whatever queue, running jobs and devices it is shown."""

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit, Decision, Refuse, Resize, Wait
from scheduler.admission.facts import Claim, DeviceView, QueuedJob, RunningJob
from scheduler.admission.future import Outlook
from scheduler.admission.pace import Pace
from scheduler.admission.plan import Plan, need_bytes, plan_of
from scheduler.admission.policy import Policy
from scheduler.admission.room import room_of
from scheduler.admission.tenant import Tenant, gains, newcomer
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Footprint
from scheduler.jobs.states import EndReason, JobState, WaitCode
from tests.unit.admission_worlds import GANG, GIB, MODES, World, crowds, ladder, pairs, queued, resized, worlds

PROMISED = {"virtual": 1.0, "cuda": 1.02, "cpu": 1.15}  # at least so much of what is predicted, by kind of device
ENDED_BADLY = {JobState.FAILED, JobState.CANCELLED}
LEFT = st.sampled_from([0.0, 0.9, 1.0, 9.0])


@settings(max_examples=80, deadline=None)
@given(world=worlds(), left=LEFT, elastic=st.booleans())
def test_what_is_promised_is_there_once_room_was_made(world: World, left: float, elastic: bool) -> None:
    decisions = decide(world.queue, world.running, world.devices, preemptions_left=left, policy=Policy(elastic=elastic))
    newcomers, asked = world.needs_room(decisions), resized(decisions)
    stopped = _stopped(decisions)
    assert elastic or not asked
    for device in world.devices:
        here = newcomers[device.device_id]
        stays = [claim for claim in device.claims if claim.job_id not in stopped]
        held = sum(claim.held_bytes for claim in device.claims)
        foreign = max(0, device.used_bytes - held, device.foreign_bytes)
        after = sum(_after(claim, asked) for claim in stays) + sum(one.plan.reserve_bytes for one in here)
        before = sum(claim.taken_bytes for claim in device.claims)
        assert after + foreign <= device.total_bytes or (not here and after <= before)
        assert device.problem is None or not here
        assert all(len(here) + len(stays) == 1 for one in here if one.exclusive)
        assert not here or not any(claim.exclusive for claim in stays)
        beyond = sum(_beyond(claim) for claim in stays)  # in no reservation, so the limit on these leaves it out
        for limit in _limits(device, decisions):
            assert limit == max(0, device.total_bytes - foreign - beyond)
            assert limit >= after - beyond or not here  # else the store would refuse what was decided


def _after(claim: Claim, asked: dict[int, Resize]) -> int:
    if claim.job_id not in asked:
        return claim.taken_bytes
    return asked[claim.job_id].reserve_bytes + _beyond(claim)


def _beyond(claim: Claim) -> int:
    return max(0, claim.held_bytes - claim.reserved_bytes)


def _limits(device: DeviceView, decisions: list[Decision]) -> list[int]:
    told = [*(one for one in decisions if isinstance(one, Admit)), *resized(decisions).values()]
    return [one.limits[device.device_id] for one in told if device.device_id in one.limits]


def _stopped(decisions: list[Decision]) -> dict[int, int]:
    return {victim: one.job_id for one in decisions if isinstance(one, Admit) for victim in one.preempts}


@settings(max_examples=80, deadline=None)
@given(world=worlds(), left=LEFT, order=st.randoms())
def test_starts_what_may_start_where_and_beside_whom_it_may(world: World, left: float, order) -> None:
    decisions = decide(world.queue, world.running, world.devices, preemptions_left=left)
    told = [one.job_id for one in decisions if not isinstance(one, Resize)]
    assert sorted(told) == [job.job_id for job in world.queue]

    jobs, targets = {job.job_id: job for job in world.queue}, {one.device_id: one.target for one in world.devices}
    for one in decisions:
        if isinstance(one, Admit):
            job = jobs[one.job_id]
            assert job.problem is None
            assert not job.cancel_requested
            assert all(dependency.state is JobState.SUCCEEDED for dependency in job.dependencies)
            assert len(set(one.device_ids)) == len(one.device_ids) == job.gpus
            assert set(one.limits) == set(one.device_ids) <= (job.devices or one.limits.keys())
            assert len({targets[device_id] for device_id in one.device_ids}) == 1
            assert one.exclusive == job.wish.exclusive
            footprint = job.footprints[targets[one.device_ids[0]]]
            assert isinstance(footprint, Footprint)
            _check_plan(one.plan, job.wish, footprint, world.devices[0].kind)
    for job in world.queue:
        if any(one.state in ENDED_BADLY for one in job.dependencies) and not (job.cancel_requested or job.problem):
            (refused,) = [one for one in decisions if one.job_id == job.job_id]
            assert isinstance(refused, Refuse)
            assert refused.reason is EndReason.DEPENDENCY_FAILED

    apart = {job.job_id: set(job.apart_from) for job in world.queue if job.waited_seconds < _OVERDUE_SECONDS}
    newcomers, stopped = world.needs_room(decisions), _stopped(decisions)
    for device in world.devices:
        here = newcomers[device.device_id]
        neighbours = {claim.job_id for claim in device.claims if claim.job_id not in stopped}
        assert all(apart.get(one.job_id, set()).isdisjoint(neighbours) for one in here)
        assert all(one.job_id not in apart.get(other.job_id, ()) for one, other in combinations(here, 2))

    shuffled = [*world.queue]
    order.shuffle(shuffled)
    assert decide(shuffled, world.running, world.devices, preemptions_left=left) == decisions


_OVERDUE_SECONDS = Policy().most_patience_seconds


def _check_plan(plan: Plan, wish: Wish, footprint: Footprint, kind: str) -> None:
    """The plan is one that the job allows, with all that it is predicted to take, and keeps the effective batch."""
    assert plan.candidate in footprint.candidates
    assert plan.modes in wish.modes
    assert plan.micro_batch * (plan.accumulation_steps - 1) < wish.rows <= plan.micro_batch * plan.accumulation_steps
    assert plan.reserve_bytes <= (wish.max_memory_bytes or plan.reserve_bytes)
    if wish.insists:
        assert plan.micro_batch == wish.micro_batch
        return
    assert plan.micro_batch <= (wish.micro_batch_limit or plan.micro_batch)
    assert plan.reserve_bytes >= int(plan.candidate.process_bytes * PROMISED[kind])
    for failed in wish.ran_out:
        least = next(c for c in footprint.candidates if (c.micro_batch, c.modes) == (1, failed.modes))
        assert plan.candidate.process_bytes < least.process_bytes


@settings(max_examples=80, deadline=None)
@given(world=worlds(), left=LEFT)
def test_running_jobs_are_asked_only_for_what_they_can_do(world: World, left: float) -> None:
    _check_asked(world, decide(world.queue, world.running, world.devices, preemptions_left=left), left)


@settings(max_examples=80)
@given(world=pairs(), left=st.sampled_from([0.0, 1.0, 9.0]))
def test_a_job_over_two_devices_is_asked_for_what_both_can_do(world: World, left: float) -> None:
    _check_asked(world, decide(world.queue, world.running, world.devices, preemptions_left=left), left)


def _check_asked(world: World, decisions: list[Decision], left: float) -> None:
    running, newcomers = {job.job_id: job for job in world.running}, world.needs_room(decisions)
    stopped, asked, kind = _stopped(decisions), resized(decisions), world.devices[0].kind
    priority = {job.job_id: job.priority for job in (*world.queue, *world.running)}
    usable = {one.device_id for one in world.devices if one.problem is None}
    assert len(stopped) <= left
    assert stopped.keys().isdisjoint(asked)
    for victim, winner in stopped.items():
        assert running[victim].preemptible
        assert priority[victim] <= priority[winner]
        assert victim != GANG or priority[victim] < priority[winner]  # it has two devices
    for job_id, resize in asked.items():
        job = running[job_id]
        assert resize.candidate in job.ladder
        assert resize.candidate != job.candidate
        assert resize.reserve_bytes == need_bytes(kind, resize.candidate)
        assert set(resize.limits) == set(job.device_ids) & usable
        for device_id, limit in resize.limits.items():
            others = sum(one.plan.reserve_bytes for one in newcomers[device_id])
            assert resize.reserve_bytes + others <= limit or not others
        if resize.candidate.micro_batch > job.candidate.micro_batch:
            assert set(job.device_ids) <= usable
            assert not any(newcomers[device_id] for device_id in job.device_ids)
            assert all(resize.reserve_bytes <= limit for limit in resize.limits.values())


@settings(max_examples=80, deadline=None)
@given(world=crowds())
def test_what_is_left_of_a_device_would_let_nobody_grow(world: World) -> None:
    """Also beside a job that another of its devices holds small: nothing stands idle for a growth that can't come."""
    asked = resized(decide([], world.running, world.devices))
    now = {job.job_id: asked[job.job_id].candidate if job.job_id in asked else job.candidate for job in world.running}
    left = {
        one.device_id: one.total_bytes - sum(now[claim.job_id].process_bytes for claim in one.claims)
        for one in world.devices
    }
    for job in world.running:
        larger = job.ladder[job.ladder.index(now[job.job_id]) + 1 :]
        more = larger[0].process_bytes - now[job.job_id].process_bytes if larger else math.inf
        assert min(left[device_id] for device_id in job.device_ids) < more


@given(data=st.data(), kind=st.sampled_from(sorted(PROMISED)), total_bytes=st.integers(GIB, 12 * GIB))
def test_every_rung_open_to_a_job_is_one_that_it_allows(data: st.DataObject, kind: str, total_bytes: int) -> None:
    job = queued(data.draw, 1, kind)
    footprint = job.footprints["one"]
    assert isinstance(footprint, Footprint)
    tenant = newcomer(job, footprint, kind, total_bytes)
    if tenant is None:
        return
    assert all(less < more for less, more in pairwise(tenant.needs))
    assert all(slow > fast for slow, fast in pairwise(tenant.seconds))
    for candidate, need in zip(tenant.ladder, tenant.needs, strict=True):
        assert need <= total_bytes
        _check_plan(plan_of(job.wish, candidate, need), job.wish, footprint, kind)


def test_of_candidates_that_need_as_much_only_the_fastest_is_a_rung() -> None:
    (one,) = ladder(6, 3, 1)
    two = replace(one, micro_batch=2, modes=MODES[1])  # faster here: a micro-batch of one has much overhead
    known = Footprint(candidates=(one, two), parameters=1, torch="2")
    job = QueuedJob(
        job_id=1,
        wish=Wish(effective_batch=64, max_seq_len=64, modes=MODES),
        footprints={"one": known},
        pace=Pace(seconds=900.0, utilisation=0.4, micro_batch=1, overhead=8.0),
    )
    tenant = newcomer(job, known, "virtual", 24 * GIB)
    assert tenant is not None
    assert tenant.ladder == (two,)


@settings(max_examples=80, deadline=None)
@given(world=worlds(), left=LEFT)
def test_no_device_stands_empty_beside_a_job_that_is_told_there_is_no_memory(world: World, left: float) -> None:
    decisions = decide(world.queue, world.running, world.devices, preemptions_left=left)
    newcomers, jobs = world.needs_room(decisions), {job.job_id: job for job in world.queue}
    foreign = {one.device_id: max(one.used_bytes, one.foreign_bytes) for one in world.devices if not one.claims}
    empty = [
        one for one in world.devices if not (one.claims or one.problem or newcomers[one.device_id]) and one.total_bytes
    ]
    for wait in decisions:
        if isinstance(wait, Wait) and wait.code is WaitCode.MEMORY:
            job = jobs[wait.job_id]
            would_do = [one for one in empty if _fits(job, one, one.total_bytes - foreign[one.device_id])]
            most_alike = max(Counter(one.target for one in would_do).values(), default=0)
            assert most_alike < job.gpus


def _fits(job: QueuedJob, device: DeviceView, free_bytes: int) -> bool:
    """Whether the least that the job can need is there, of a job that leaves all choices open."""
    footprint, wish = job.footprints[device.target], job.wish
    if not isinstance(footprint, Footprint) or wish.ran_out or wish.micro_batch or wish.max_memory_bytes:
        return False
    least = min(need_bytes(device.kind, one) for one in footprint.candidates if one.modes in wish.modes)
    return least <= free_bytes and (job.devices is None or device.device_id in job.devices)


@given(devices=st.integers(1, 4), left=st.integers(0, 5), short_seconds=st.integers(60, 400))
def test_stops_as_many_as_are_in_the_way_and_no_more_than_it_may(devices: int, left: int, short_seconds: int) -> None:
    """Each device is full with a long job that keeps it busy, and for each there is a short one that it delays."""
    world = _one_behind_another(devices, 20_000, short_seconds)
    decisions = decide(world.queue, world.running, world.devices, preemptions_left=left + 0.5)
    assert len(_stopped(decisions)) == min(left, devices)


def _one_behind_another(devices: int, long_seconds: int, short_seconds: int) -> World:
    (large,) = ladder(80, 8, 1)
    world = World(queue=[], running=[], devices=[])
    for number in range(devices):
        here = f"device-{number}"
        world.queue.append(
            QueuedJob(
                job_id=1 + number,
                wish=Wish(effective_batch=1, max_seq_len=64),
                footprints={"virtual": Footprint(candidates=(large,), parameters=1, torch="2")},
                pace=Pace(seconds=short_seconds, utilisation=0.9),
                devices=frozenset({here}),
            )
        )
        world.running.append(
            RunningJob(
                job_id=100 + number,
                device_ids=(here,),
                candidate=large,
                ladder=(large,),
                pace=Pace(seconds=long_seconds, utilisation=0.9),
                preemptible=True,
            )
        )
        claim = Claim(job_id=100 + number, reserved_bytes=large.process_bytes)
        facts = {"kind": "virtual", "target": "virtual", "total_bytes": large.process_bytes + GIB}
        world.devices.append(DeviceView(device_id=here, label=here, claims=(claim,), **facts))
    return world


@given(long_seconds=st.integers(1, 90), short_seconds=st.integers(1, 45))
def test_stops_nobody_for_what_would_gain_less_than_a_restart_is_worth(long_seconds: int, short_seconds: int) -> None:
    world = _one_behind_another(1, long_seconds, short_seconds)
    assert not _stopped(decide(world.queue, world.running, world.devices, preemptions_left=9))


SHARERS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 6 * GIB), min_size=1, max_size=5, unique=True).map(sorted),
        st.floats(0.5, 0.99),
        st.integers(10, 10_000),
    ),
    max_size=5,
)


@given(sharers=SHARERS, capacity_bytes=st.integers(0, 24 * GIB))
def test_a_device_is_shared_to_the_last_byte_that_saves_time_and_not_beyond(sharers, capacity_bytes: int) -> None:
    tenants = tuple(_tenant(number, *sharer) for number, sharer in enumerate(sharers))
    rungs = Outlook().split(tenants, capacity_bytes)
    least = sum(tenant.needs[0] for tenant in tenants)
    assert (rungs is None) == (least > capacity_bytes)
    if rungs is None:
        return
    free = capacity_bytes - sum(tenant.needs[rung] for tenant, rung in zip(tenants, rungs, strict=True))
    assert free >= 0
    for tenant, rung in zip(tenants, rungs, strict=True):
        more = tenant.needs[rung + 1 : rung + 2]
        assert not more or more[0] - tenant.needs[rung] > free


def _tenant(number: int, needs: list[int], faster: float, seconds: int) -> Tenant:
    rungs = ladder(1, 1, len(needs))
    lasting = tuple(seconds * faster**rung for rung in range(len(needs)))
    return Tenant(
        job_id=number,
        ladder=rungs,
        needs=tuple(needs),
        seconds=lasting,
        gains=gains(needs, lasting),
        utilisations=(0.5,) * len(needs),
        starts_in=0.0,
        exclusive=bool(number % 2),
    )


@given(world=worlds(), sharers=SHARERS)
def test_a_room_promises_each_tenant_what_it_needs_and_forgets_nothing_of_the_others(world: World, sharers) -> None:
    device, running = world.devices[0], {job.job_id: job for job in world.running}
    before = room_of(device, running, Policy())
    tenants = (*before.tenants, *(_tenant(number, *sharer) for number, sharer in enumerate(sharers)))
    rungs = tuple(number % len(tenant.needs) for number, tenant in enumerate(tenants))
    room = before.with_tenants(tenants, rungs)
    taken = [tenant.needs[rung] for tenant, rung in zip(tenants, rungs, strict=True)]
    assert [claim.job_id for claim in room.claims] == [tenant.job_id for tenant in room.tenants]
    assert sum(claim.reserved_bytes for claim in room.claims) == sum(taken) - sum(one.surplus_bytes for one in tenants)
    kept = room.claims[: len(device.claims)]
    assert [one.held_bytes for one in kept] == [one.held_bytes for one in device.claims]
    assert [one.exclusive for one in kept] == [one.exclusive for one in device.claims]
    assert [one.exclusive for one in room.claims[len(kept) :]] == [one.exclusive for one in tenants[len(kept) :]]
    for victim in tenants:
        left = room.without(victim)
        assert victim not in left.tenants
        assert len(left.claims) == len(left.tenants) == len(tenants) - 1
        assert victim.job_id not in {claim.job_id for claim in left.claims}
