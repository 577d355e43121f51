"""The admission cycle: what it decides, what it says, and what it must never do."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.admission.cycle import HEADS, decide
from scheduler.admission.decisions import Admit, Refuse, Wait
from scheduler.admission.explaining import explain
from scheduler.admission.facts import Claim, Dependency, DeviceView, QueuedJob, RunningJob, Untraced
from scheduler.admission.pace import Pace
from scheduler.admission.policy import Policy
from scheduler.admission.wish import RanOut, Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.jobs.states import EndReason, JobState, WaitCode

GIB = 1024**3
IDLING = Pace(seconds=900.0, utilisation=0.05, overhead=3.0)  # leaves a device to others nearly all of the time
PATIENCE_SECONDS = Policy().most_patience_seconds


def footprint(*sizes: int, unit: int = GIB) -> Footprint:
    """Peaks of micro-batch 1, 2, 4, ... in GiB."""
    rows = [
        Candidate(
            micro_batch=2**power,
            modes=Modes(),
            allocated_bytes=size * unit,
            reserved_bytes=size * unit,
            process_bytes=size * unit,
        )
        for power, size in enumerate(sizes)
    ]
    return Footprint(candidates=tuple(rows), parameters=1, torch="2")


def job(job_id: int, *sizes: int, exclusive: bool = False, elsewhere=None, **facts) -> QueuedJob:
    known = footprint(*sizes) if sizes else Untraced(sentence="is being traced")
    wish = Wish(effective_batch=2 ** max(0, len(sizes) - 1), max_seq_len=64, exclusive=exclusive)
    return QueuedJob(
        **(
            {"job_id": job_id, "wish": wish, "pace": IDLING, "footprints": {"virtual": known, "elsewhere": elsewhere}}
            | facts
        )
    )


def device(number: int = 0, total: int = 20, **facts) -> DeviceView:
    view = DeviceView(
        device_id=f"virtual-{number}",
        label=f"device {number}",
        kind="virtual",
        target="virtual",
        total_bytes=total * GIB,
    )
    return replace(view, **facts)


def claim(job_id: int, reserved: int, held: int = 0, *, exclusive: bool = False) -> Claim:
    return Claim(job_id=job_id, reserved_bytes=reserved * GIB, held_bytes=held * GIB, exclusive=exclusive)


def only(jobs: list[QueuedJob], devices: list[DeviceView]):
    (decision,) = decide(jobs, [], devices)
    return decision


def test_admits_with_a_plan_and_the_devices_limit() -> None:
    decision = only([job(1, 5, 9)], [device()])
    assert isinstance(decision, Admit)
    assert (decision.plan.micro_batch, decision.plan.reserve_bytes) == (2, 9 * GIB)
    assert decision.limits == {"virtual-0": 20 * GIB}


def test_a_reservation_counts_before_its_process_has_materialised() -> None:
    """128 jobs do not start at once because none has allocated yet."""
    decisions = decide([job(number, 6) for number in range(1, 129)], [], [device()])
    assert [type(decision) for decision in decisions[:4]] == [Admit, Admit, Admit, Wait]
    assert sum(isinstance(decision, Admit) for decision in decisions) == 3
    waits = only([job(1, 6)], [device(claims=(claim(7, 18),))])
    assert isinstance(waits, Wait)
    assert waits.code is WaitCode.MEMORY


def test_foreign_memory_is_not_ours_to_give() -> None:
    """A foreign process holds 23 of 24 GB: a 12 GB job waits, though nothing is reserved."""
    waits = only([job(1, 12)], [device(total=24, used_bytes=23 * GIB)])
    assert isinstance(waits, Wait)
    assert waits.code is WaitCode.MEMORY
    assert waits.sentence == "needs 12.0 GiB; device 0 has 1.0 GiB free, processes that are not mmq's hold 23.0 GiB"


def test_says_who_holds_the_memory() -> None:
    waits = only([job(1, 9)], [device(claims=(claim(41, 12, held=13),), used_bytes=13 * GIB)])
    assert isinstance(waits, Wait)
    assert waits.sentence == "needs 9.0 GiB; device 0 has 7.0 GiB free, job 41 holds 13.0 GiB"


def test_takes_the_tightest_device_that_allows_the_fastest_plan() -> None:
    devices = [device(0, 40), device(1, 12), device(2, 10)]
    decision = only([job(1, 3, 11)], devices)
    assert isinstance(decision, Admit)
    assert decision.device_ids == ("virtual-1",)


def test_shares_a_device_only_when_none_is_idle() -> None:
    devices = [device(0, 40, claims=(claim(7, 4),)), device(1, 40)]
    decisions = decide([job(1, 3), job(2, 3), job(3, 3)], [], devices)
    assert [one.device_ids[0] for one in decisions if isinstance(one, Admit)][:2] == ["virtual-1", "virtual-0"]


def test_what_fits_nowhere_is_refused_saying_what_would_fit() -> None:
    refused = only([job(1, 50, 99)], [device(0, 24), device(1, 20)])
    assert isinstance(refused, Refuse)
    assert refused.reason is EndReason.DOES_NOT_FIT
    assert refused.sentence == (
        "needs at least 50.0 GiB, with micro-batch 1; the largest device, device 0, has 24.0 GiB: "
        "a device of 50.0 GiB would do"
    )


def test_more_gpus_than_there_are_is_refused() -> None:
    refused = only([job(1, 1, gpus=5)], [device(0), device(1)])
    assert isinstance(refused, Refuse)
    assert refused.sentence == "asks for 5 GPUs, but there are only 2 here"


def test_max_memory_below_the_smallest_plan_is_refused() -> None:
    one = job(1, 5, 9)
    refused = only([replace(one, wish=replace(one.wish, max_memory_bytes=2 * GIB))], [device()])
    assert isinstance(refused, Refuse)
    assert refused.sentence == "needs at least 5.0 GiB, with micro-batch 1; its resources.max_memory is 2.0 GiB"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (
            {"max_memory_bytes": 6 * GIB},
            "needs at least 9.0 GiB, with micro-batch 1; its resources.max_memory is 6.0 GiB: a higher one would do, "
            "or a host with more memory: with optimizer offload that ran out",
        ),
        (
            {"ran_out": (RanOut(micro_batch=1, modes=Modes()),)},
            "ran out of memory at its smallest plan, micro-batch 1, predicted to need 9.0 GiB by now; nothing that "
            "memory: allows would make it smaller; it needs at least 9.0 GiB, which device 0 "
            "(20.0 GiB) would have: mmq retry plans with what was learnt, or a host with more memory: "
            "with optimizer offload that ran out",
        ),
    ],
)
def test_what_the_host_had_no_room_for_is_not_named_as_the_smallest_plan(facts, told: str) -> None:
    offloaded = Modes(optimizer_offload=True)
    on_device, on_host = footprint(9).candidates[0], replace(footprint(5).candidates[0], modes=offloaded)
    known = replace(footprint(9), candidates=(on_device, on_host))
    wish = Wish(effective_batch=1, max_seq_len=64, modes=(Modes(), offloaded), spares_host=True, **facts)
    refused = only([job(1, wish=wish, footprints={"virtual": known})], [device()])
    assert isinstance(refused, Refuse)
    assert refused.sentence == told


def test_only_the_devices_that_a_job_names_decide_whether_it_fits() -> None:
    devices = [device(0, 10), device(1, 40)]
    refused = only([job(1, 15, devices=frozenset({"virtual-0"}))], devices)
    assert isinstance(refused, Refuse)
    assert "the largest device, device 0, has 10.0 GiB" in refused.sentence
    decision = only([job(1, 15, devices=frozenset({"virtual-1"}))], devices)
    assert isinstance(decision, Admit)
    gone = only([job(1, 15, devices=frozenset({"virtual-9"}))], devices)
    assert isinstance(gone, Wait)
    assert (gone.code, gone.sentence) == (WaitCode.NO_DEVICE, "none of the devices that it names is here")


@pytest.mark.parametrize("problem", ["NVML: GPU is lost", "no reading for 40 s"])
def test_a_device_with_a_problem_is_not_used(problem: str) -> None:
    waits = only([job(1, 1)], [device(problem=problem)])
    assert isinstance(waits, Wait)
    assert (waits.code, waits.sentence) == (WaitCode.DEVICE_ERROR, f"device 0: {problem}")
    decision = only([job(1, 1)], [device(0, problem=problem), device(1)])
    assert isinstance(decision, Admit)
    assert decision.device_ids == ("virtual-1",)


def test_a_device_that_cannot_be_read_is_hope_enough_not_to_refuse() -> None:
    waits = only([job(1, 30)], [device(0, 20), device(1, 40, problem="hangs")])
    assert isinstance(waits, Wait)
    assert waits.code is WaitCode.DEVICE_ERROR


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"problem": "its row is damaged"}, WaitCode.ERROR),
        ({"cancel_requested": True}, WaitCode.CANCELLING),
        ({"dependencies": (Dependency(job_id=3, state=JobState.RUNNING),)}, WaitCode.DEPENDENCY),
        ({"footprints": {"virtual": Untraced(sentence="is being traced")}}, WaitCode.TRACING),
    ],
)
def test_waits_with_a_code(facts, code: WaitCode) -> None:
    waits = only([job(1, 1, **facts)], [device()])
    assert isinstance(waits, Wait)
    assert waits.code is code


def test_no_device_waits() -> None:
    waits = only([job(1, 1)], [])
    assert isinstance(waits, Wait)
    assert waits.code is WaitCode.NO_DEVICE


def test_a_failed_dependency_ends_the_job() -> None:
    refused = only([job(2, 1, dependencies=(Dependency(job_id=1, state=JobState.FAILED),))], [device()])
    assert isinstance(refused, Refuse)
    assert (refused.reason, refused.sentence) == (
        EndReason.DEPENDENCY_FAILED,
        "comes after job 1, which has failed",
    )


def test_a_configuration_that_cannot_be_built_ends_the_job() -> None:
    wrong = {"virtual": Untraced(sentence="the tracer refused the configuration: x", hopeless=True)}
    refused = only([job(1, 1, footprints=wrong)], [device()])
    assert isinstance(refused, Refuse)
    assert refused.reason is EndReason.BAD_CONFIGURATION


def test_exclusive_needs_an_empty_device_and_keeps_it() -> None:
    waits = only([job(1, 2, exclusive=True)], [device(claims=(claim(9, 1),))])
    assert isinstance(waits, Wait)
    assert waits.sentence.startswith("needs a device to itself")
    first, second = decide([job(1, 2, exclusive=True), job(2, 1)], [], [device()])
    assert isinstance(first, Admit)
    assert first.exclusive
    assert isinstance(second, Wait)
    assert (second.code, second.sentence) == (WaitCode.EXCLUSIVE, "job 1 has device 0 to itself")


def test_a_small_job_passes_a_large_one_until_the_large_one_has_waited_long_enough() -> None:
    devices = [device(claims=(claim(9, 10),))]
    large, small = job(1, 15), job(2, 5)
    admitted, waits = decide([large, small], [], devices)
    assert isinstance(admitted, Admit)
    assert (admitted.job_id, waits.job_id) == (2, 1)
    large = replace(large, waited_seconds=PATIENCE_SECONDS)
    waits, kept = decide([large, small], [], devices)
    assert isinstance(waits, Wait)
    assert isinstance(kept, Wait)
    assert (kept.code, kept.sentence) == (
        WaitCode.KEPT,
        "device 0 is kept for job 1, which has waited longer",
    )
    started, _ = decide([large, small], [], [device()])
    assert isinstance(started, Admit)


def test_patience_is_longer_where_all_must_wait_long() -> None:
    """Eight hours, or twice what each device has queued for it, and two days at most."""
    least = Policy().patience_seconds
    large, small, hours = job(1, 15, waited_seconds=least), job(2, 5), Pace(seconds=0.75 * least, utilisation=0.05)
    devices = [device(claims=(claim(9, 10),))]

    def favoured(*more: QueuedJob, **facts: float) -> bool:
        decisions = {one.job_id: one for one in decide([large, small, *more], [], devices, **facts)}
        return isinstance(decisions[2], Wait) and decisions[2].code is WaitCode.KEPT

    assert favoured()
    assert not favoured(job(3, 15, pace=hours))
    assert not favoured(more_seconds=hours.seconds)  # queued, and not among those that are looked at
    large = replace(large, waited_seconds=PATIENCE_SECONDS)
    assert favoured(more_seconds=100 * hours.seconds)


def test_priority_comes_before_age() -> None:
    decisions = decide([job(1, 15), job(2, 15, priority=5)], [], [device()])
    assert [(decision.job_id, type(decision)) for decision in decisions] == [(2, Admit), (1, Wait)]


def test_only_so_many_heads_are_looked_at_and_blocked_jobs_are_none() -> None:
    blocked = [
        job(number, 1, dependencies=(Dependency(job_id=9999, state=JobState.QUEUED),)) for number in range(1, 400)
    ]
    ready = [job(number, 15) for number in range(400, 400 + HEADS + 5)]
    decisions = decide([*blocked, *ready], [], [device()])
    assert [one.job_id for one in decisions if isinstance(one, Admit)] == [400]
    assert sum(isinstance(one, Wait) and one.code is WaitCode.BEHIND for one in decisions) == 5


def test_explains_in_numbers_what_was_weighed() -> None:
    running = RunningJob(
        job_id=9,
        device_ids=("virtual-0",),
        candidate=footprint(8).candidates[0],
        ladder=footprint(8).candidates,
        pace=Pace(seconds=600.0, utilisation=0.9),
    )
    busy = device(claims=(claim(9, 8, held=8),), used_bytes=8 * GIB)
    told = explain(1, [job(1, 5, pace=Pace(seconds=900.0, utilisation=0.9))], [running], [busy])
    assert told == [
        "it is number 1 of 1 in the queue: priority 0, about 15m 00s to go with a device to itself",
        "device 0 has 12.0 GiB free, job 9 holds 8.0 GiB; "
        "it would take from 5.0 GiB (micro-batch 1) to 5.0 GiB (micro-batch 1)",
        "  if it starts there now: job 9 ends in 18m 10s, job 1 ends in 23m 24s; adds 31m 34s in sum",
        "  if it starts there when one has ended: job 9 ends in 10m 00s, job 1 ends in 25m 15s; adds 25m 15s in sum",
        "so it waits: could start on device 0 beside job 9, but that would add 31m 34s to the total of their "
        "completion times; starting on device 0 in about 10m 00s adds 25m 15s",
    ]
    assert explain(1, [job(1, 5)], [], [device()])[-1] == "so it starts"
    assert explain(2, [job(1, 5)], [], [device()]) == []


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4).map(sorted)
JOBS = st.lists(
    st.builds(
        lambda sizes, **facts: (sizes, facts),
        SIZES,
        priority=st.integers(-2, 2),
        problem=st.none() | st.just("damaged"),
        cancel_requested=st.booleans(),
        dependencies=st.lists(
            st.builds(Dependency, job_id=st.just(99), state=st.sampled_from(JobState)), max_size=2
        ).map(tuple),
        waited_seconds=st.sampled_from([0.0, PATIENCE_SECONDS]),
        exclusive=st.booleans(),
        elsewhere=st.sampled_from([Untraced(sentence="x"), Untraced(sentence="x", hopeless=True), footprint(3, 7)]),
    ),
    max_size=8,
)
DEVICES = st.lists(
    st.builds(
        lambda total, used, claims, problem, target: (total, used, claims, problem, target),
        st.integers(1, 40),
        st.integers(0, 40),
        st.lists(st.builds(claim, st.integers(50, 60), st.integers(0, 12), st.integers(0, 12)), max_size=3),
        st.none() | st.just("broken"),
        st.sampled_from(["virtual", "elsewhere"]),
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(drawn_jobs=JOBS, drawn_devices=DEVICES, order=st.randoms())
def test_never_over_commits_and_never_starts_what_must_not(drawn_jobs, drawn_devices, order) -> None:
    jobs = [job(number, *sizes, **facts) for number, (sizes, facts) in enumerate(drawn_jobs, start=1)]
    devices = [
        device(number, total, used_bytes=used * GIB, claims=tuple(claims), problem=problem, target=target)
        for number, (total, used, claims, problem, target) in enumerate(drawn_devices)
    ]
    decisions = decide(jobs, [], devices)
    assert sorted(decision.job_id for decision in decisions) == [one.job_id for one in jobs]

    by_id = {one.job_id: one for one in jobs}
    admitted = [decision for decision in decisions if isinstance(decision, Admit)]
    for decision in admitted:
        one = by_id[decision.job_id]
        assert one.problem is None
        assert not one.cancel_requested
        assert all(dependency.state is JobState.SUCCEEDED for dependency in one.dependencies)

    for view in devices:
        here = [decision for decision in admitted if decision.device_ids == (view.device_id,)]
        if not here:
            continue
        assert view.problem is None
        foreign = max(0, view.used_bytes - sum(one.held_bytes for one in view.claims))
        promised = sum(max(one.reserved_bytes, one.held_bytes) for one in view.claims)
        new = sum(decision.plan.reserve_bytes for decision in here)
        assert promised + new + foreign <= view.total_bytes
        reserved = sum(one.reserved_bytes for one in view.claims)
        assert all(reserved + new <= decision.limits[view.device_id] for decision in here)
        if any(decision.exclusive for decision in here):
            assert len(here) == 1
            assert not view.claims

    shuffled = [*jobs]
    order.shuffle(shuffled)
    assert decide(shuffled, [], devices) == decisions
