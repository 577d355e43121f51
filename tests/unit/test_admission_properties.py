"""What the admission cycle must never do, whatever queue, running jobs and devices it is shown."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit, Decision, Refuse, Resize
from scheduler.admission.facts import Claim, DeviceView, QueuedJob, RunningJob
from scheduler.admission.pace import Pace
from scheduler.admission.policy import Policy
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes

GIB = 1024**3
PACES = st.builds(
    Pace,
    seconds=st.floats(1, 1e5),
    utilisation=st.floats(0.01, 1),
    micro_batch=st.sampled_from([1, 4, 16]),
    overhead=st.floats(0, 8),
)


def ladder(fixed: int, row: int, rungs: int) -> tuple[Candidate, ...]:
    """Micro-batches 1, 2, 4, ... with peaks in GiB / 8."""
    peaks = [(2**power, (fixed + 2**power * row) * GIB // 8) for power in range(rungs)]
    return tuple(
        Candidate(micro_batch=b, modes=Modes(), allocated_bytes=peak, reserved_bytes=peak, process_bytes=peak)
        for b, peak in peaks
    )


LADDERS = st.builds(ladder, st.integers(1, 60), st.integers(1, 16), st.integers(1, 6))


@st.composite
def worlds(draw):
    """Draw a queue, running jobs with the devices they hold, and what others hold there."""
    queue = [_queued(draw, number) for number in range(1, draw(st.integers(0, 6)) + 1)]
    running, devices = [], []
    for number in range(draw(st.integers(1, 3))):
        total, claims, free = draw(st.integers(1, 24)) * GIB, [], draw(st.integers(1, 24)) * GIB
        for place in range(draw(st.integers(0, 3))):
            rungs = draw(LADDERS)
            now = rungs[draw(st.integers(0, len(rungs) - 1))]
            if now.process_bytes > free:
                continue
            free -= now.process_bytes
            job_id = 1000 + 10 * number + place
            running.append(_running(draw, job_id, f"device-{number}", now, rungs))
            held = draw(st.sampled_from([0, now.process_bytes, now.process_bytes + GIB // 4]))
            claims.append(Claim(job_id=job_id, reserved_bytes=now.process_bytes, held_bytes=held))
        ours = sum(claim.held_bytes for claim in claims)
        devices.append(
            DeviceView(
                device_id=f"device-{number}",
                label=f"device {number}",
                kind="virtual",
                target="virtual",
                total_bytes=total,
                used_bytes=ours + draw(st.sampled_from([0, 0, 3, 20])) * GIB,
                foreign_bytes=draw(st.sampled_from([0, 0, 4, 21])) * GIB,
                claims=tuple(claims),
            )
        )
    if len(devices) > 1 and draw(st.booleans()):
        devices = _with_gang(draw, running, devices)
    return queue, running, devices


def _with_gang(draw, running: list[RunningJob], devices: list[DeviceView]) -> list[DeviceView]:
    """Put a job on the first two devices."""
    rungs = draw(LADDERS)
    now = rungs[draw(st.integers(0, len(rungs) - 1))]
    both = tuple(device.device_id for device in devices[:2])
    running.append(replace(_running(draw, 2000, both[0], now, rungs), device_ids=both))
    claim = Claim(job_id=2000, reserved_bytes=now.process_bytes)
    return [replace(device, claims=(*device.claims, claim)) for device in devices[:2]] + devices[2:]


def _queued(draw, job_id: int) -> QueuedJob:
    rungs = draw(LADDERS)
    return QueuedJob(
        job_id=job_id,
        wish=Wish(effective_batch=64, max_seq_len=64, exclusive=draw(st.booleans()) and draw(st.booleans())),
        footprints={"virtual": Footprint(candidates=rungs, parameters=1, torch="2")},
        pace=draw(PACES),
        priority=draw(st.integers(-1, 1)),
        waited_seconds=draw(st.sampled_from([0.0, 1e4, 1e6])),
        apart_from=dict.fromkeys(draw(st.sets(st.sampled_from([1, 2, *range(1000, 1013)]), max_size=3)), 0.8),
        gpus=draw(st.sampled_from([1, 1, 1, 2, 3])),
    )


def _running(draw, job_id: int, device_id: str, now: Candidate, rungs: tuple[Candidate, ...]) -> RunningJob:
    return RunningJob(
        job_id=job_id,
        device_ids=(device_id,),
        candidate=now,
        ladder=rungs,
        pace=draw(PACES),
        priority=draw(st.integers(-1, 1)),
        starts_in_seconds=draw(st.sampled_from([0.0, 12.0])),
        preemptible=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(world=worlds(), left=st.sampled_from([0.0, 1.0, 9.0]), elastic=st.booleans(), order=st.randoms())
def test_what_is_promised_is_there_once_room_was_made(world, left: float, elastic: bool, order) -> None:
    queue, running, devices = world
    policy = Policy(elastic=elastic)
    decisions = decide(queue, running, devices, preemptions_left=left, policy=policy)

    priority = {job.job_id: job.priority for job in (*queue, *running)}
    apart = {job.job_id: set(job.apart_from) for job in queue if job.waited_seconds < policy.most_patience_seconds}
    admitted = [one for one in decisions if isinstance(one, Admit)]
    resized = _resized(decisions)
    stopped = {victim: one.job_id for one in admitted for victim in one.preempts}
    gpus, where = {job.job_id: job.gpus for job in queue}, {job.job_id: job.device_ids for job in running}
    assert all(len(set(one.device_ids)) == len(one.device_ids) == gpus[one.job_id] for one in admitted)
    assert all(set(one.limits) == set(one.device_ids) for one in admitted)
    assert all(set(one.limits) == set(where[one.job_id]) for one in resized.values())
    assert len(stopped) <= left
    assert elastic or not resized
    assert all(priority[victim] <= priority[winner] for victim, winner in stopped.items())
    assert 2000 not in stopped or priority[2000] < priority[stopped[2000]]  # it has two devices
    for device in devices:
        here = [one for one in admitted if device.device_id in one.device_ids]
        stays = [claim for claim in device.claims if claim.job_id not in stopped]
        held = sum(claim.held_bytes for claim in device.claims)
        foreign = max(0, device.used_bytes - held, device.foreign_bytes)
        after = sum(_after(claim, resized) for claim in stays) + sum(one.plan.reserve_bytes for one in here)
        before = sum(claim.taken_bytes for claim in device.claims)
        assert after + foreign <= device.total_bytes or (not here and after <= before)
        neighbours = {claim.job_id for claim in stays}
        assert all(apart.get(one.job_id, set()).isdisjoint(neighbours) for one in here)
        assert all(one.job_id not in apart.get(other.job_id, ()) for one, other in combinations(here, 2))
        assert all(len(here) + len(stays) == 1 for one in here if one.exclusive)

    shuffled = [*queue]
    order.shuffle(shuffled)
    assert decide(shuffled, running, devices, preemptions_left=left, policy=policy) == decisions


def _resized(decisions: list[Decision]) -> dict[int, Resize]:
    """Return who changes to what: a job is asked for one thing, on however many devices it is in the way."""
    asked: dict[int, Resize] = {}
    alone = [one for one in decisions if isinstance(one, Resize)]
    for one in (*alone, *(r for a in decisions if isinstance(a, Admit) for r in a.shrinks)):
        assert asked.setdefault(one.job_id, one) == one
    assert len({one.job_id for one in alone}) == len(alone)
    return asked


def _after(claim: Claim, resized: dict[int, Resize]) -> int:
    if claim.job_id not in resized:
        return claim.taken_bytes
    return resized[claim.job_id].reserve_bytes + max(0, claim.held_bytes - claim.reserved_bytes)


@settings(max_examples=12, deadline=None)
@given(
    short_seconds=st.integers(100, 1500),
    arrives_every=st.integers(100, 400),
    short_size=st.integers(6, 10),
    priority=st.sampled_from([0, -1]),
)
def test_no_job_waits_for_ever(short_seconds: int, arrives_every: int, short_size: int, priority: int) -> None:
    """The bound: its patience, and then the time of those that run, on which nothing new is put that would delay it."""
    policy = Policy(patience_seconds=3600.0, patience_backlogs=0.0)
    bound = policy.patience_seconds + 2 * short_seconds + arrives_every
    large = _job(0, size=11, seconds=20_000, priority=priority)
    assert _start_under_a_stream(large, policy, short_size, short_seconds, arrives_every, until=bound) is not None


def test_without_patience_it_would_wait_as_long_as_the_stream_lasts() -> None:
    policy, large = Policy(patience_seconds=1e9, most_patience_seconds=1e9), _job(0, size=11, seconds=20_000)
    assert _start_under_a_stream(large, policy, 8, 1000, 300, until=20_000) is None


def _start_under_a_stream(
    large: QueuedJob, policy: Policy, short_size: int, short_seconds: int, arrives_every: int, *, until: float
) -> int | None:
    """Return when the large job starts under an endless stream of short ones, more than the device can take."""
    waiting, ends = {0: (large, 0)}, {}
    for number, now in enumerate(range(0, int(until) + 1, arrives_every), start=1):
        waiting[number] = (_job(number, size=short_size, seconds=short_seconds), now)
        ends = {one: (end, job) for one, (end, job) in ends.items() if end > now}
        queue = [replace(job, waited_seconds=now - since) for job, since in waiting.values()]
        running = [_runs(job, end - now) for end, job in ends.values()]
        for decision in decide(queue, running, [_device(job for _, job in ends.values())], policy=policy):
            if isinstance(decision, Admit):
                job, _ = waiting.pop(decision.job_id)
                ends[job.job_id] = (now + job.pace.seconds, job)
        if 0 not in waiting:
            return now
    return None


def _runs(job: QueuedJob, seconds: float) -> RunningJob:
    return RunningJob(
        job_id=job.job_id,
        device_ids=("gpu",),
        candidate=job.footprints["virtual"].candidates[0],
        ladder=job.footprints["virtual"].candidates,
        pace=replace(job.pace, seconds=seconds),
    )


def _device(jobs: Iterable[QueuedJob]) -> DeviceView:
    claims = [
        Claim(job_id=job.job_id, reserved_bytes=job.footprints["virtual"].candidates[0].process_bytes) for job in jobs
    ]
    return DeviceView(
        device_id="gpu", label="GPU 0", kind="virtual", target="virtual", total_bytes=12 * GIB, claims=tuple(claims)
    )


def _job(job_id: int, *, size: int, seconds: float, priority: int = 0) -> QueuedJob:
    peak = Candidate(
        micro_batch=1, modes=Modes(), allocated_bytes=size * GIB, reserved_bytes=size * GIB, process_bytes=size * GIB
    )
    return QueuedJob(
        job_id=job_id,
        wish=Wish(effective_batch=1, max_seq_len=64),
        footprints={"virtual": Footprint(candidates=(peak,), parameters=1, torch="2")},
        pace=Pace(seconds=seconds, utilisation=0.3),
        priority=priority,
    )


@settings(max_examples=100, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(4, 24), min_size=1, max_size=4))
def test_jobs_over_several_devices_never_wait_for_each_other(data: st.DataObject, sizes: list[int]) -> None:
    """As long as any of them waits that fits at all, one runs: none ever holds a part of what another lacks."""
    gangs = [
        replace(
            _job(number, size=data.draw(st.integers(1, 24)), seconds=60), gpus=data.draw(st.integers(1, len(sizes)))
        )
        for number in range(data.draw(st.integers(2, 5)))
    ]
    devices = [
        DeviceView(device_id=f"gpu-{n}", label=f"GPU {n}", kind="virtual", target="virtual", total_bytes=size * GIB)
        for n, size in enumerate(sizes)
    ]
    waiting = {job.job_id: job for job in gangs}
    while waiting:
        decisions = decide(waiting.values(), [], devices)
        done = [one.job_id for one in decisions if isinstance(one, Admit)]
        refused = [one.job_id for one in decisions if isinstance(one, Refuse)]
        assert done or len(refused) == len(waiting)
        assert all(_fits(waiting[one], sizes) for one in done)
        assert not any(_fits(waiting[one], sizes) for one in refused)
        for one in (*done, *refused):
            del waiting[one]


def _fits(job: QueuedJob, sizes: list[int]) -> bool:
    least = job.footprints["virtual"].candidates[0].process_bytes
    return sum(size * GIB >= least for size in sizes) >= job.gpus


class Stream:
    """Devices of 12 GiB on each of which one job of 8 has room, and jobs that arrive for ever."""

    def __init__(self, devices: int, policy: Policy) -> None:
        self.names = [f"gpu-{number}" for number in range(devices)]
        self.policy = policy
        self.now = 0.0
        self.waiting: dict[int, tuple[QueuedJob, float]] = {}
        self.ends: dict[int, tuple[float, QueuedJob, tuple[str, ...]]] = {}

    def arrives(self, job: QueuedJob) -> None:
        self.waiting[job.job_id] = (job, self.now)

    def runs(self, job: QueuedJob, *names: str) -> None:
        self.ends[job.job_id] = (self.now + job.pace.seconds, job, names)

    def cycle(self, now: float) -> list[Decision]:
        """Let what has ended go, and start what is decided to start."""
        self.now = now
        self.ends = {one: (end, job, where) for one, (end, job, where) in self.ends.items() if end > now}
        queue = [replace(job, waited_seconds=now - since) for job, since in self.waiting.values()]
        running = [replace(_runs(job, end - now), device_ids=where) for end, job, where in self.ends.values()]
        devices = [
            replace(_device(job for _, job, where in self.ends.values() if name in where), device_id=name)
            for name in self.names
        ]
        decisions = decide(queue, running, devices, policy=self.policy)
        for decision in decisions:
            if isinstance(decision, Admit):
                job, _ = self.waiting.pop(decision.job_id)
                self.runs(job, *decision.device_ids)
        return decisions


def _gang(job_id: int, *, seconds: float, gpus: int, priority: int = 0) -> QueuedJob:
    return replace(_job(job_id, size=8, seconds=seconds, priority=priority), gpus=gpus)


@settings(max_examples=15, deadline=None)
@given(
    left=st.lists(st.integers(50, 3000), min_size=2, max_size=4),
    gpus=st.integers(2, 4),
    lengths=st.lists(st.integers(20, 4000), min_size=5, max_size=20),
)
def test_once_it_is_its_turn_a_job_over_several_devices_waits_for_those_that_run_and_no_other(
    left: list[int], gpus: int, lengths: list[int]
) -> None:
    """The bound: when the jobs that ran as it came have left as many devices as it needs, whatever comes behind it."""
    gpus, stream = min(gpus, len(left)), Stream(len(left), Policy())
    for number, seconds in enumerate(left):
        stream.runs(_job(100 + number, size=8, seconds=seconds), stream.names[number])
    stream.arrives(_gang(0, seconds=1000, gpus=gpus))
    bound, every = sorted(left)[gpus - 1], 50
    for number, now in enumerate(range(0, bound + 2 * every, every)):
        length = lengths[number % len(lengths)]
        stream.arrives(_job(1000 + number, size=8, seconds=length, priority=-1))
        stream.cycle(now)
    assert 0 not in stream.waiting


def test_what_ends_before_it_can_start_uses_the_device_that_is_free_meanwhile() -> None:
    told = {}
    for seconds in (300, 2000):
        stream = Stream(2, Policy())
        stream.runs(_job(100, size=8, seconds=1000), "gpu-1")
        stream.arrives(_gang(0, seconds=500, gpus=2))
        stream.arrives(_job(seconds, size=8, seconds=seconds, priority=-1))
        told |= {one.job_id: one for one in stream.cycle(0.0)}
    assert isinstance(told[300], Admit)
    assert "is kept for job 0, which needs 2 devices at once" in told[2000].sentence
    assert told[0].starts_in_seconds == 1000
    assert "on each of 2 devices at once" in told[0].sentence


def test_a_job_over_several_devices_behind_an_endless_stream_starts_when_its_patience_is_over() -> None:
    """Jobs of 450 s arrive for ever on two devices and go before one of 10,000: both are never free by themselves."""
    policy = Policy(patience_seconds=3600.0, most_patience_seconds=3600.0)
    stream, started = Stream(2, policy), None
    for number, now in enumerate(range(0, 8000, 150), start=1):
        if now == 300:
            stream.arrives(_gang(0, seconds=10_000, gpus=2, priority=-1))
        stream.arrives(_job(number, size=8, seconds=450))
        stream.cycle(now)
        if 0 in stream.ends:
            started = now
            break
    assert started is not None
    assert policy.patience_seconds < started - 300 <= policy.patience_seconds + 450 + 150
