"""The simulated world: devices, the progress of jobs on them, and what happens when. Knows the truth; decides nothing.

Of n jobs on a device each goes at 1 / (max(1, sum of utilisations) x (1 + 0.07 (n - 1))) of its speed alone. A start
takes 15 s, of a job that was stopped 10 s more; a resize is free. A job that needs more than it was given fails at its
first step and starts again at half the micro-batch. These figures are the world's; what the scheduler believes of it
is in `scheduler/admission/pace.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.errors import MmqError
from scheduler.simulation.hardware import Hardware
from scheduler.simulation.knowledge import Known, Oracle
from scheduler.simulation.moves import Move, Policy, Preempt, Refuse, Resize, Seat, Start, View
from scheduler.simulation.workload import Job

START_SECONDS = 15.0
RESUME_SECONDS = 10.0
NEIGHBOUR_COST = 0.07
_SOON = 1e-9  # seconds, or share of a job: no difference


class Stalled(MmqError):
    """Nothing runs, nothing is to come, and the policy leaves jobs in the queue."""


@dataclass(slots=True, eq=False)
class Course:
    """One job on its way through the world: the truth, and what is known of it."""

    job: Job
    known: Known
    seconds: float = 0.0  # alone, at its micro-batch
    utilisation: float = 0.0
    ended_at: float | None = None
    ran_out: bool = False  # of memory, at least once
    refused: bool = False

    def run_at(self, micro_batch: int, given_bytes: int) -> None:
        self.known.micro_batch, self.known.given_bytes = micro_batch, given_bytes
        self.seconds = self.job.seconds_at(micro_batch)
        self.utilisation = self.job.utilisation_at(micro_batch)

    @property
    def first_waited_seconds(self) -> float:
        started_at = self.known.first_started_at
        return 0.0 if started_at is None else started_at - self.job.submit_seconds

    @property
    def completion_seconds(self) -> float:
        return 0.0 if self.ended_at is None else self.ended_at - self.job.submit_seconds


@dataclass(slots=True, eq=False)
class Device:
    usable_bytes: int
    courses: list[Course] = field(default_factory=list)
    slowdown: float = 1.0
    busy: float = 0.0  # share of the time in which it computes

    def look(self, now: float) -> None:
        """Work out anew how fast its jobs go."""
        wanted = sum(course.utilisation for course in self.courses if course.known.steps_at <= now + _SOON)
        self.slowdown = max(1.0, wanted) * (1 + NEIGHBOUR_COST * max(0, len(self.courses) - 1))
        self.busy = wanted / self.slowdown

    def next_event(self, now: float) -> float:
        return min((self._event_of(course, now) for course in self.courses), default=math.inf)

    def advance(self, now: float, seconds: float) -> None:
        for course in self.courses:
            if course.known.steps_at <= now + _SOON:
                course.known.done += seconds / (course.seconds * self.slowdown)

    @property
    def over_committed(self) -> bool:
        """Whether its jobs may take more than there is; what is given to a job is what it can't exceed."""
        return sum(course.known.given_bytes for course in self.courses) > self.usable_bytes

    def _event_of(self, course: Course, now: float) -> float:
        known = course.known
        if known.steps_at > now + _SOON:
            return known.steps_at
        return now + (1 - known.done) * course.seconds * self.slowdown


@dataclass(frozen=True, slots=True)
class Moment:
    """The state after everything that happened at one instant."""

    at: float
    queued: int
    busy: float  # devices' worth of computing
    ended: int


@dataclass(kw_only=True)
class Outcome:
    hardware: Hardware
    courses: Sequence[Course]  # by submission
    moments: Sequence[Moment]
    preemptions: int
    over_commits: int  # instants at which jobs could have taken more of a device than it has


class World:
    """Runs jobs by a policy to their end. An instance is used once."""

    def __init__(self, jobs: Sequence[Job], hardware: Hardware, policy: Policy, oracle: Oracle) -> None:
        self._hardware = hardware
        self._policy = policy
        self._oracle = oracle
        self._devices = [Device(usable_bytes) for usable_bytes in hardware.usable_bytes]
        self._courses = [Course(job, Known(told=oracle.tell(job))) for job in jobs]
        self._by_id = {course.job.job_id: course for course in self._courses}
        self._arrived = 0
        self._queue: dict[int, Course] = {}
        self._now = 0.0
        self._ended = self._started = self._preemptions = self._over_commits = 0
        self._moments: list[Moment] = []
        self._byte_seconds: dict[str, float] = {}

    def run(self) -> Outcome:
        while self._ended < len(self._courses):
            self._advance()
            self._end()
            self._begin_steps()
            self._arrive()
            for move in list(self._policy.moves(self._view())):
                self._make(move)
            self._close_instant()
        return Outcome(
            hardware=self._hardware,
            courses=self._courses,
            moments=self._moments,
            preemptions=self._preemptions,
            over_commits=self._over_commits,
        )

    def _advance(self) -> None:
        """Let time pass until something happens."""
        arrival = self._courses[self._arrived].job.submit_seconds if self._arrived < len(self._courses) else math.inf
        at = min(arrival, *(device.next_event(self._now) for device in self._devices))
        if at == math.inf:
            left = ", ".join(str(job_id) for job_id in list(self._queue)[:5])
            raise Stalled(f"the policy starts none of {len(self._queue)} jobs on idle devices: {left}")
        for device in self._devices:
            device.advance(self._now, at - self._now)
            for course in device.courses:
                self._byte_seconds[course.job.user] += course.known.given_bytes * (at - self._now)
        self._now = at

    def _end(self) -> None:
        for device in self._devices:
            for course in [one for one in device.courses if one.known.done >= 1 - _SOON]:
                device.courses.remove(course)
                course.known.device = None
                course.ended_at = self._now
                self._ended += 1

    def _begin_steps(self) -> None:
        """Look at each job whose first step is due: it shows what the job is, or that it was given too little."""
        for device in self._devices:
            for course in list(device.courses):
                known = course.known
                if known.steps_at > self._now + _SOON:
                    continue
                if course.job.bytes_at(known.micro_batch) > known.given_bytes:
                    self._run_out(course, device)
                elif not known.measured:
                    known.measured, known.seen = True, self._oracle.measure(course.job)

    def _run_out(self, course: Course, device: Device) -> None:
        """Start it again at half the micro-batch; from 1 it goes back to the queue, and its need is known."""
        known, course.ran_out = course.known, True
        if known.micro_batch > 1:
            course.run_at((known.micro_batch + 1) // 2, known.given_bytes)
            known.steps_at = self._now + START_SECONDS
        else:
            known.measured, known.seen = True, self._oracle.measure(course.job)
            self._requeue(course, device)

    def _arrive(self) -> None:
        while self._arrived < len(self._courses):
            course = self._courses[self._arrived]
            if course.job.submit_seconds > self._now + _SOON:
                return
            self._queue[course.job.job_id] = course
            self._byte_seconds.setdefault(course.job.user, 0.0)
            self._arrived += 1

    def _view(self) -> View:
        waiting = sorted(self._queue.values(), key=lambda course: (course.job.submit_seconds, course.job.job_id))
        return View(
            now=self._now,
            queue=[course.known for course in waiting],
            seats=[Seat(device.usable_bytes, [one.known for one in device.courses]) for device in self._devices],
            started=self._started,
            preemptions=self._preemptions,
            byte_seconds=self._byte_seconds,
        )

    def _make(self, move: Move) -> None:
        course = self._by_id[move.job_id]
        match move:
            case Start():
                self._start(course, move)
            case Resize():
                course.run_at(move.micro_batch, move.given_bytes)
            case Preempt():
                assert course.known.device is not None
                course.known.preemptions += 1
                self._preemptions += 1
                self._requeue(course, self._devices[course.known.device])
            case Refuse():
                del self._queue[move.job_id]
                course.refused = True
                self._ended += 1

    def _start(self, course: Course, move: Start) -> None:
        del self._queue[move.job_id]
        known = course.known
        known.device, known.started_at = move.device, self._now
        known.steps_at = self._now + START_SECONDS + (RESUME_SECONDS if known.preemptions else 0.0)
        if known.first_started_at is None:
            known.first_started_at = self._now
            self._started += 1
        course.run_at(move.micro_batch, move.given_bytes)
        self._devices[move.device].courses.append(course)

    def _requeue(self, course: Course, device: Device) -> None:
        device.courses.remove(course)
        known = course.known
        known.device = None
        known.ran_seconds += self._now - known.started_at
        known.steps_at = math.inf
        self._queue[known.job_id] = course

    def _close_instant(self) -> None:
        for device in self._devices:
            device.look(self._now)
        self._over_commits += sum(device.over_committed for device in self._devices)
        busy = sum(device.busy for device in self._devices)
        self._moments.append(Moment(self._now, len(self._queue), busy, self._ended))
