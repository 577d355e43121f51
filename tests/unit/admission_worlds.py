"""What properties of the admission cycle are tried on: a queue, running jobs and crowded devices, drawn at random."""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from scheduler.admission.decisions import Admit, Decision, Resize
from scheduler.admission.facts import NOT_TRACED, Claim, Dependency, DeviceView, QueuedJob, RunningJob, Untraced
from scheduler.admission.pace import Pace
from scheduler.admission.plan import need_bytes
from scheduler.admission.policy import Policy
from scheduler.admission.wish import RanOut, Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.jobs.states import JobState

GIB = 1024**3
EIGHTH = GIB // 8
GANG = 2000  # the id of a job that runs on two devices
MODES = (Modes(), Modes(activation_checkpointing="full"))

PACES = st.builds(
    Pace,
    seconds=st.sampled_from([30.0, 900.0, 20_000.0]) | st.floats(1, 1e5),
    utilisation=st.sampled_from([0.05, 0.4, 0.95]),
    micro_batch=st.sampled_from([1, 4, 16]),
    overhead=st.floats(0, 8),
)
DEPENDENCY = st.builds(Dependency, job_id=st.just(99), state=st.sampled_from(JobState))
SELDOM = st.sampled_from([False] * 11 + [True])


@dataclass(frozen=True, kw_only=True)
class World:
    queue: list[QueuedJob]
    running: list[RunningJob]
    devices: list[DeviceView]

    def needs_room(self, decisions: list[Decision]) -> dict[str, list[Admit]]:
        """Return by device who is to start there."""
        admitted = [one for one in decisions if isinstance(one, Admit)]
        return {
            device.device_id: [one for one in admitted if device.device_id in one.device_ids] for device in self.devices
        }


def ladder(fixed: int, row: int, rungs: int, modes: Modes = MODES[0]) -> tuple[Candidate, ...]:
    """Micro-batches 1, 2, 4, ... with peaks in GiB / 8."""
    peaks = [(2**power, (fixed + 2**power * row) * EIGHTH) for power in range(rungs)]
    return tuple(
        Candidate(micro_batch=b, modes=modes, allocated_bytes=peak, reserved_bytes=peak, process_bytes=peak)
        for b, peak in peaks
    )


LADDERS = st.builds(ladder, st.integers(1, 24), st.integers(1, 8), st.integers(1, 6))


@st.composite
def worlds(draw) -> World:
    """Draw a queue, running jobs with what they hold, and how little is left beside them and others."""
    kind = draw(st.sampled_from(["virtual", "virtual", "cuda", "cpu"]))
    running: list[RunningJob] = []
    devices = [_device(draw, number, kind, running) for number in range(draw(st.integers(1, 3)))]
    if len(devices) > 1 and draw(st.booleans()):
        devices = _with_gang(draw, running, devices, kind)
    queue = [queued(draw, number, kind, len(devices)) for number in range(1, draw(st.integers(1, 6)) + 1)]
    return World(queue=queue, running=running, devices=devices)


def _device(draw, number: int, kind: str, running: list[RunningJob]) -> DeviceView:
    claims = []
    for place in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        rungs = draw(LADDERS)
        now = draw(st.sampled_from(rungs))
        need, job_id = need_bytes(kind, now), 1000 + 10 * number + place
        if not draw(SELDOM):  # else nothing is known of it but what it claims
            running.append(_running(draw, job_id, f"device-{number}", now, rungs))
        held = draw(st.sampled_from([0, need, need + GIB // 4]))
        exclusive = place == 0 and draw(SELDOM)
        claims.append(Claim(job_id=job_id, reserved_bytes=need, held_bytes=held, exclusive=exclusive))
        if exclusive:
            break
    others = draw(st.sampled_from([0, 0, 0, 3, 20])) * GIB
    grown = draw(st.sampled_from([0, 0, 0, 4, 21])) * EIGHTH
    left = draw(st.sampled_from([-8, 0, 3, 8, 24, 80, 80])) * EIGHTH + max(others, grown)
    return DeviceView(
        device_id=f"device-{number}",
        label=f"device {number}",
        kind=kind,
        target=draw(st.sampled_from(["one", "one", "one", "other"])),
        total_bytes=max(EIGHTH, sum(claim.taken_bytes for claim in claims) + left),
        used_bytes=sum(claim.held_bytes for claim in claims) + others,
        foreign_bytes=grown,
        claims=tuple(claims),
        problem=draw(st.sampled_from([None, None, None, None, "broken"])),
    )


def _with_gang(draw, running: list[RunningJob], devices: list[DeviceView], kind: str) -> list[DeviceView]:
    """Put a job on the first two devices."""
    rungs = draw(LADDERS)
    now = draw(st.sampled_from(rungs))
    both = tuple(device.device_id for device in devices[:2])
    running.append(replace(_running(draw, GANG, both[0], now, rungs), device_ids=both))
    claim = Claim(job_id=GANG, reserved_bytes=need_bytes(kind, now))
    grown = [
        replace(device, claims=(*device.claims, claim), total_bytes=device.total_bytes + claim.reserved_bytes)
        for device in devices[:2]
    ]
    return grown + devices[2:]


@st.composite
def pairs(draw) -> World:
    """Draw a job that runs on two devices, what is left on each, and a short one that wants the first of them."""
    rungs = ladder(draw(st.integers(1, 24)), draw(st.integers(1, 8)), draw(st.integers(2, 5)))
    now = draw(st.sampled_from(rungs))
    devices = []
    for number in (0, 1):
        size = now.process_bytes + draw(st.sampled_from([-4, -4, 0, 4, 24, 200])) * EIGHTH
        view = DeviceView(
            device_id=f"device-{number}",
            label=f"device {number}",
            kind="virtual",
            target="one",
            total_bytes=max(EIGHTH, size),
            claims=(Claim(job_id=GANG, reserved_bytes=now.process_bytes),),
            problem=draw(st.sampled_from([None, None, "broken"])) if number else None,
        )
        devices.append(view)
    running = replace(
        _running(draw, GANG, "device-0", now, rungs),
        device_ids=("device-0", "device-1"),
        pace=Pace(seconds=20_000, utilisation=0.9, overhead=4.0),
    )
    short = QueuedJob(
        job_id=1,
        wish=Wish(effective_batch=1, max_seq_len=64),
        footprints={"one": Footprint(candidates=ladder(draw(st.integers(1, 60)), 1, 1), parameters=1, torch="2")},
        pace=Pace(seconds=300, utilisation=0.9),
        priority=draw(st.sampled_from([0, 1, 1])),
        devices=frozenset({"device-0"}),
    )
    return World(queue=draw(st.sampled_from([[], [short], [short]])), running=[running], devices=devices)


@st.composite
def crowds(draw) -> World:
    """Draw three devices with jobs on one, two or all of them, each as small as it can be, and what is left."""
    names = [f"device-{number}" for number in range(3)]
    taken = st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
    running = []
    for number, places in enumerate(draw(st.lists(taken, min_size=2, max_size=6))):
        rungs = ladder(draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(3, 5)))
        pace = Pace(seconds=900.0, utilisation=0.4, overhead=draw(st.floats(1, 8)))
        job = replace(_running(draw, 1000 + number, names[0], rungs[0], rungs), pace=pace)
        running.append(replace(job, device_ids=tuple(names[place] for place in places)))
    devices = []
    for name in names:
        claims = [
            Claim(job_id=one.job_id, reserved_bytes=one.candidate.process_bytes)
            for one in running
            if name in one.device_ids
        ]
        least = sum(one.reserved_bytes for one in claims)
        total = max(EIGHTH, least + draw(st.sampled_from([0, 4, 10, 30])) * EIGHTH)
        facts = {"kind": "virtual", "target": "one", "total_bytes": total}
        devices.append(DeviceView(device_id=name, label=name, claims=tuple(claims), **facts))
    return World(queue=[], running=running, devices=devices)


def queued(draw, job_id: int, kind: str, devices: int = 1) -> QueuedJob:
    rungs = draw(LADDERS)
    frugal = tuple(replace(one, modes=MODES[1], process_bytes=one.process_bytes * 3 // 4) for one in rungs)
    known = Footprint(candidates=(*rungs, *frugal), parameters=1, torch="2")
    least = min(need_bytes(kind, one) for one in known.candidates)
    wish = Wish(
        effective_batch=draw(st.sampled_from([64, 61])),
        max_seq_len=64,
        modes=draw(st.sampled_from([MODES, MODES[:1]])),
        exclusive=draw(st.sampled_from([False, False, False, True])),
        micro_batch=draw(st.sampled_from([None, None, None, None, 1, 4])),
        max_memory_bytes=draw(st.sampled_from([None, None, None, None, least, least + GIB])),
        micro_batch_limit=draw(st.sampled_from([None, None, 1, 2])),
        ran_out=draw(st.sampled_from([(), (), (), (), (RanOut(micro_batch=1, modes=MODES[0]),)])),
    )
    return QueuedJob(
        job_id=job_id,
        wish=wish,
        footprints={"one": known, "other": draw(st.sampled_from([known] * 6 + [NOT_TRACED, HOPELESS]))},
        pace=draw(PACES),
        priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
        waited_seconds=draw(st.sampled_from([0.0, 1e4, Policy().most_patience_seconds])),
        apart_from=dict.fromkeys(draw(st.sets(st.sampled_from([1, 2, 1000, 1001, 1010, 1011]), max_size=4)), 0.8),
        gpus=draw(st.sampled_from([1, 1, 1, 1, min(2, devices), 3])),
        devices=draw(st.sampled_from([None, None, None, frozenset({"device-0", "device-1"})])),
        cancel_requested=draw(SELDOM),
        problem="damaged" if draw(SELDOM) else None,
        dependencies=tuple(draw(st.lists(DEPENDENCY, min_size=1, max_size=2)))
        if draw(st.sampled_from([False] * 4 + [True]))
        else (),
    )


HOPELESS = Untraced(sentence="can't be built", hopeless=True)


def _running(draw, job_id: int, device_id: str, now: Candidate, rungs: tuple[Candidate, ...]) -> RunningJob:
    return RunningJob(
        job_id=job_id,
        device_ids=(device_id,),
        candidate=now,
        ladder=rungs,
        pace=draw(PACES),
        priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
        starts_in_seconds=draw(st.sampled_from([0.0, 12.0])),
        preemptible=draw(st.sampled_from([True, True, False])),
    )


def resized(decisions: list[Decision]) -> dict[int, Resize]:
    """Return who changes to what: a job is asked for one thing, on however many devices it is in the way."""
    asked: dict[int, Resize] = {}
    alone = [one for one in decisions if isinstance(one, Resize)]
    for one in (*alone, *(r for a in decisions if isinstance(a, Admit) for r in a.shrinks)):
        assert asked.setdefault(one.job_id, one) == one
    assert len({one.job_id for one in alone}) == len(alone)
    return asked
