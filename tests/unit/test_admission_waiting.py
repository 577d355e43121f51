"""How long a job waits at most, whatever comes behind it: bounds on the admission cycle under streams of jobs."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit, Decision, Refuse
from scheduler.admission.facts import Claim, DeviceView, QueuedJob, RunningJob
from scheduler.admission.pace import Pace
from scheduler.admission.policy import Policy
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes

GIB = 1024**3


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
@given(data=st.data(), kinds=st.lists(st.tuples(st.integers(4, 24), st.sampled_from("ab")), min_size=1, max_size=5))
def test_jobs_over_several_devices_never_wait_for_each_other(data: st.DataObject, kinds: list[tuple[int, str]]) -> None:
    """As long as any of them waits that fits at all, one runs: none ever holds a part of what another lacks."""
    gangs = [
        _gang_of(number, data.draw(st.integers(1, 24)), data.draw(st.integers(1, len(kinds))))
        for number in range(data.draw(st.integers(2, 5)))
    ]
    devices = [
        DeviceView(device_id=str(n), label=f"GPU {n}", kind="virtual", target=kind, total_bytes=size * GIB)
        for n, (size, kind) in enumerate(kinds)
    ]
    waiting = {job.job_id: job for job in gangs}
    while waiting:
        decisions = decide(waiting.values(), [], devices)
        done = [one for one in decisions if isinstance(one, Admit)]
        refused = [one.job_id for one in decisions if isinstance(one, Refuse)]
        assert done or len(refused) == len(waiting)
        assert all(len({kinds[int(device_id)][1] for device_id in one.device_ids}) == 1 for one in done)
        assert all(_fits(waiting[one.job_id], kinds) for one in done)
        assert not any(_fits(waiting[one], kinds) for one in refused)
        for job_id in (*(one.job_id for one in done), *refused):
            del waiting[job_id]


def _gang_of(job_id: int, size: int, gpus: int) -> QueuedJob:
    job = _job(job_id, size=size, seconds=60)
    return replace(job, gpus=gpus, footprints=dict.fromkeys("ab", job.footprints["virtual"]))


def _fits(job: QueuedJob, kinds: list[tuple[int, str]]) -> bool:
    """Whether there are as many devices of one kind that are large enough."""
    least = job.footprints["a"].candidates[0].process_bytes
    return any(sum(kind == one and size * GIB >= least for size, one in kinds) >= job.gpus for kind in "ab")


class Stream:
    """Devices of 12 GiB on each of which one job of 8 has room, and jobs that arrive for ever."""

    def __init__(self, devices: int, policy: Policy, *, preemptions_left: float = 0.0) -> None:
        self.names = [f"gpu-{number}" for number in range(devices)]
        self.policy = policy
        self.preemptions_left = preemptions_left
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
        running = [
            replace(_runs(job, end - now), device_ids=where, preemptible=True) for end, job, where in self.ends.values()
        ]
        devices = [
            replace(_device(job for _, job, where in self.ends.values() if name in where), device_id=name)
            for name in self.names
        ]
        decisions = decide(queue, running, devices, policy=self.policy, preemptions_left=self.preemptions_left)
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


@settings(max_examples=6, deadline=None)
@given(large=st.integers(2, 3), long_seconds=st.integers(200, 900), short_seconds=st.integers(150, 600))
def test_jobs_that_have_waited_as_long_start_one_after_another(
    large: int, long_seconds: int, short_seconds: int
) -> None:
    """The bound: what runs on the device then, once for a job itself and once for each that goes before it."""
    policy, every = Policy(patience_seconds=1800.0, patience_backlogs=0.0), 150
    stream, started = Stream(1, policy), dict[int, int]()
    for number in range(large):
        stream.arrives(_job(number, size=11, seconds=long_seconds, priority=-1))
    bounds = [
        int(policy.patience_seconds) + 2 * short_seconds + every + before * (long_seconds + every)
        for before in range(large)
    ]
    for number, now in enumerate(range(0, bounds[-1] + 1, every)):
        stream.arrives(_job(1000 + number, size=8, seconds=short_seconds))
        stream.cycle(now)
        started |= {job_id: now for job_id in stream.ends if job_id < large and job_id not in started}
    assert sorted(started) == list(range(large))
    assert all(started[job_id] <= bounds[job_id] for job_id in started)


def test_jobs_that_wait_count_in_the_forecasts_for_those_behind_them() -> None:
    stream = Stream(2, Policy())
    stream.runs(_job(100, size=8, seconds=100), "gpu-0")
    stream.runs(_job(101, size=8, seconds=150), "gpu-1")
    for seconds in (1000, 2000, 4000):
        stream.arrives(_job(seconds, size=8, seconds=seconds))
    starts = {decision.job_id: decision.starts_in_seconds for decision in stream.cycle(0.0)}
    assert starts == {1000: 100, 2000: 150, 4000: 100 + 15 + 1000}  # a start takes 15 s


def test_a_queue_longer_than_is_planned_is_forecast_job_by_job() -> None:
    stream = Stream(1, Policy(planned=2))
    stream.runs(_job(100, size=8, seconds=100), "gpu-0")
    for seconds in (1000, 2000, 4000):
        stream.arrives(_job(seconds, size=8, seconds=seconds))
    assert [decision.starts_in_seconds for decision in stream.cycle(0.0)] == [100, 100, 100]


def test_a_job_that_leaves_the_device_idle_comes_before_a_slightly_shorter_one() -> None:
    stream = Stream(1, Policy())
    idle = _job(1, size=8, seconds=1000)
    busy = _job(2, size=8, seconds=900)
    stream.arrives(replace(busy, pace=replace(busy.pace, utilisation=1.0)))
    stream.arrives(idle)
    (admitted,) = [decision.job_id for decision in stream.cycle(0.0) if isinstance(decision, Admit)]
    assert admitted == 1


@settings(max_examples=200, deadline=None)
@given(
    running=st.lists(
        st.lists(st.tuples(st.integers(3, 5), st.sampled_from([50, 500, 3000])), max_size=2), min_size=1, max_size=3
    ),
    size=st.integers(2, 4),
    seconds=st.sampled_from([50, 300, 1000]),
    utilisation=st.sampled_from([0.2, 0.6, 0.9, 1.0]),
    jobs=st.integers(2, 7),
    preemptions_left=st.integers(0, 3),
)
def test_of_jobs_that_are_alike_none_starts_before_one_that_came_earlier(
    running: list[list[tuple[int, int]]], size: int, seconds: int, utilisation: float, jobs: int, preemptions_left: int
) -> None:
    stream = Stream(len(running), Policy(), preemptions_left=preemptions_left)
    for name, there in zip(stream.names, running, strict=True):
        for its_size, its_seconds in there:
            stream.runs(_job(100 + len(stream.ends), size=its_size, seconds=its_seconds), name)
    alike = _job(0, size=size, seconds=seconds)
    alike = replace(alike, pace=replace(alike.pace, utilisation=utilisation))
    for number in range(jobs):
        stream.arrives(replace(alike, job_id=number))
    decisions = stream.cycle(0.0)
    admitted = {decision.job_id for decision in decisions if isinstance(decision, Admit)}
    assert sorted(decision.job_id for decision in decisions) == list(range(jobs))
    assert admitted == set(range(len(admitted)))
