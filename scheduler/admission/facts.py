"""What an admission cycle is told: the queue, the devices, and who holds what on them. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.admission.pace import Pace
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint
from scheduler.jobs.states import JobState


@dataclass(frozen=True, kw_only=True, slots=True)
class Untraced:
    """A footprint that is not known: not yet, or not at all."""

    sentence: str
    hopeless: bool = False  # the tracer says that this configuration can't be built


NOT_TRACED = Untraced(sentence="its memory has not been worked out yet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependency:
    job_id: int
    state: JobState


_NOBODY: Mapping[int, float] = {}
UNKNOWN_PACE = Pace(seconds=900.0, utilisation=0.5, overhead=3.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """A job that wants to start."""

    job_id: int
    wish: Wish
    footprints: Mapping[str, Footprint | Untraced]  # by the target of a device
    pace: Pace = UNKNOWN_PACE
    priority: int = 0
    waited_seconds: float = 0.0  # since it was submitted, less what it has run
    overuse: float = 1.0  # its user's recent GPU memory-hours over an equal share of all
    resumes: bool = False  # it has run before, and goes on from a checkpoint
    apart_from: Mapping[int, float] = field(default_factory=lambda: _NOBODY)  # jobs that its kind was slower beside
    # than by turns, and what both reached together of that
    gpus: int = 1
    devices: frozenset[str] | None = None  # the only ones it may have, by id; None: any
    cancel_requested: bool = False
    dependencies: tuple[Dependency, ...] = ()
    problem: str | None = None  # why it can't even be considered: a mistake of ours, or damage


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningJob:
    """A job with a live attempt: how it runs, and what could be asked of it."""

    job_id: int
    device_ids: tuple[str, ...]
    candidate: Candidate  # as it runs now
    ladder: tuple[Candidate, ...]  # what it could change to while it runs, by micro-batch; its own among them
    pace: Pace
    priority: int = 0
    starts_in_seconds: float = 0.0  # until its first step
    preemptible: bool = False  # it has begun, and can be stopped and resumed


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A live attempt's share of a device: what it was promised, and what it was seen to hold."""

    job_id: int
    reserved_bytes: int
    held_bytes: int = 0
    exclusive: bool = False

    @property
    def taken_bytes(self) -> int:
        """A promise counts until the process has materialised; what it holds beyond it counts as well."""
        return max(self.reserved_bytes, self.held_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceView:
    """A device as the cycle sees it. With a `problem` it is not used, whatever the numbers say."""

    device_id: str
    label: str  # "GPU 0", "virtual device 1", "the host's memory"
    kind: str
    target: str  # names what a footprint on it depends on: kind and compute capability
    total_bytes: int
    used_bytes: int = 0  # by everyone
    foreign_bytes: int = 0  # to be left to others' processes at least, for they have needed it lately
    claims: tuple[Claim, ...] = field(default=())
    problem: str | None = None  # a sentence: a reading error, no reading, a stale one
