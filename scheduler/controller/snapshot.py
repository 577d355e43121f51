"""Step 2 of the admission cycle: one moment of the store and the devices, as the values that `decide` takes.

The store is read first, the devices after it. The other way round, a shrink acknowledged in between would put what the
larger plan held on the smaller one. As it is, one not acknowledged yet stands as asked for, and what a device shows of
it is booked on neither.
"""

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import msgspec

from scheduler.admission.colocation import Apart, apart
from scheduler.admission.cycle import HEADS
from scheduler.admission.facts import (
    UNKNOWN_PACE,
    Claim,
    Dependency,
    DeviceView,
    QueuedJob,
    RunningJob,
    Untraced,
)
from scheduler.admission.order import remaining_seconds
from scheduler.admission.policy import PREEMPTIONS_A_JOB
from scheduler.admission.wish import RanOut, Wish, wish_of
from scheduler.config import Settings
from scheduler.controller import fairness, paces
from scheduler.controller.colocation import kept_apart
from scheduler.controller.fairness import REMEMBERED_SECONDS
from scheduler.controller.footprints import FootprintBook
from scheduler.controller.foreign import Foreign
from scheduler.controller.holdings import held_bytes, owners
from scheduler.controller.inventory import Inventory, view
from scheduler.controller.paces import Experience
from scheduler.controller.residents import Resident, known_footprint, running_jobs
from scheduler.errors import MmqError
from scheduler.footprint.curve import Footprint, Modes
from scheduler.footprint.request import Target
from scheduler.jobs.retries import Shortage
from scheduler.jobs.spec import JobSpec, decode
from scheduler.jobs.states import JobState, WaitCode
from scheduler.store import attempts, devices, history, jobs, queueing, shortages
from scheduler.store import paces as stored_paces
from scheduler.store.database import Database, Reader
from scheduler.store.queueing import Damaged
from scheduler.store.records import Attempt, Job, Reservation

EXPLAINED = 500  # jobs beyond the heads that are given a reason in one cycle
_ABOUT = 0.1  # a length that has changed by no more is not written again

_ONE_ROW = Wish(effective_batch=1, max_seq_len=1)  # of a job that is settled before its wish counts

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    jobs: tuple[QueuedJob, ...]
    running: tuple[RunningJob, ...]
    devices: tuple[DeviceView, ...]
    held: Mapping[int, int]  # attempt id to the most bytes it was seen to hold on any of its devices
    residents: tuple[Resident, ...]  # the same jobs as `running`, as the store has them
    users: Mapping[int, str]  # of the jobs
    reasons: Mapping[int, tuple[str | None, str | None]]  # of queued jobs, why they wait: code and sentence
    preemptions_left: float
    more_seconds: float  # the work of queued jobs that are not among these
    remaining_seconds: Mapping[int, float]  # of queued jobs, where it is not what the store has
    apart: Apart


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the store says, all at one moment."""

    queued: list[Job]
    damaged: list[Damaged]
    dependencies: dict[int, list[tuple[int, JobState]]]
    latest: dict[int, Attempt]  # of queued jobs, by the attempt's id
    live: list[Attempt]
    live_jobs: dict[int, Job]
    reservations: list[Reservation]
    ran_seconds: dict[int, float]  # of queued jobs that have run before
    ran_out: dict[int, list[tuple[Attempt, Shortage | None]]]  # of queued jobs that have
    sparing_host: set[int]  # jobs that are not to keep their optimizer there again
    experience: Experience
    overuse: dict[str, float]
    preemptions_left: float
    more_seconds: float
    apart: Apart


def read(db: Database, *, now: float) -> Rows:
    """Read everything the decision needs of the store."""
    with db.snapshot() as reader:
        return _rows(reader, now)


def _rows(reader: Reader, now: float) -> Rows:
    heads = {job.id: job for job in queueing.heads(reader, limit=HEADS)}  # what these come after has succeeded
    others = (*queueing.blocked(reader, limit=EXPLAINED), *queueing.unexplained(reader, limit=EXPLAINED))
    found = heads | {job.id: job for job in others}
    queued = [one for one in found.values() if isinstance(one, Job)]
    live = attempts.live(reader)
    live_jobs = jobs.several(reader, [attempt.job_id for attempt in live])
    started, stopped = history.preemptions(reader, latest=fairness.LATEST)
    uses = history.uses(reader, since=now - REMEMBERED_SECONDS, latest=fairness.LATEST)
    users = [job.user_name for job in (*queued, *live_jobs.values())]
    return Rows(
        queued=queued,
        damaged=[one for one in found.values() if isinstance(one, Damaged)],
        dependencies=jobs.dependencies(reader, found.keys() - heads.keys()),
        latest={job.attempt_id: attempts.get(reader, job.attempt_id) for job in queued if job.attempt_id is not None},
        live=live,
        live_jobs=live_jobs,
        reservations=devices.reservations(reader),
        ran_seconds=history.ran_seconds(reader, [job.id for job in queued if job.attempt_id is not None]),
        ran_out={job.id: shortages.out_of_memory_ends(reader, job) for job in queued if job.out_of_memory_retries},
        sparing_host={job.id for job in queued if shortages.exhausted_host_memory(reader, job)},
        experience=Experience(history.speeds(reader, latest=paces.LATEST)),
        overuse=fairness.overuse(uses, users, now=now),
        preemptions_left=PREEMPTIONS_A_JOB * started - stopped,
        more_seconds=queueing.remaining(reader) - sum(job.remaining_seconds for job in queued),
        apart=apart(stored_paces.seen(reader, now=now)),
    )


def take(
    rows: Rows,
    settings: Settings,
    inventory: Inventory,
    book: FootprintBook,
    foreign: Foreign,
    *,
    now: float,
) -> Snapshot:
    """Put rows and an inventory no older than they together; footprints not known yet are asked for on the way."""
    views, held = _views(rows, inventory, settings.host, foreign, now)
    residents = tuple(_residents(rows, inventory, settings.host, book))
    queued = [_queued(job, rows, inventory, book, now) for job in rows.queued]
    queued += [_unfit(one.id, f"its row in the database can't be read: {one.why}") for one in rows.damaged]
    by_id = {view.device_id: view for view in views}
    kept = kept_apart(rows.apart, _readable(rows.queued, queued), residents, inventory) if rows.apart else {}
    return Snapshot(
        jobs=tuple(replace(job, apart_from=kept[job.job_id]) if job.job_id in kept else job for job in queued),
        running=running_jobs(residents, by_id, rows.experience, inventory, now=now),
        devices=views,
        held=held,
        residents=residents,
        users={job.id: job.user_name for job in (*rows.queued, *rows.live_jobs.values())},
        reasons={job.id: (job.waiting_code, job.waiting) for job in rows.queued}
        | {one.id: (one.waiting_code, one.waiting) for one in rows.damaged},
        preemptions_left=rows.preemptions_left,
        more_seconds=rows.more_seconds,
        remaining_seconds=_changed_lengths(rows.queued, queued),
        apart=rows.apart,
    )


def _readable(rows: Iterable[Job], queued: Iterable[QueuedJob]) -> list[tuple[int, JobSpec, Wish]]:
    wishes = {job.job_id: job.wish for job in queued if job.problem is None}
    found = []
    for row in rows:
        if row.id in wishes:
            with contextlib.suppress(msgspec.DecodeError):
                found.append((row.id, _spec(row.spec), wishes[row.id]))
    return found


def _changed_lengths(rows: Iterable[Job], queued: Iterable[QueuedJob]) -> dict[int, float]:
    """Return how long jobs are thought to take, where that is not about what is written."""
    written = {row.id: row.remaining_seconds for row in rows}
    current = {job.job_id: remaining_seconds(job) for job in queued if job.job_id in written}
    return {one: seconds for one, seconds in current.items() if abs(seconds - written[one]) > _ABOUT * seconds}


def _residents(rows: Rows, inventory: Inventory, host: str, book: FootprintBook) -> Iterator[Resident]:
    devices: dict[int, list[str]] = defaultdict(list)
    for reservation in rows.reservations:
        devices[reservation.attempt_id].append(reservation.device_id)
    for attempt in rows.live:
        if attempt.host != host or attempt.job_id not in rows.live_jobs:
            continue
        job = rows.live_jobs[attempt.job_id]
        try:
            spec = _spec(job.spec)
        except msgspec.DecodeError:
            continue  # a stranger to the decision: it stays as it is
        wish, device_ids = wish_of(spec, micro_batch_limit=job.micro_batch_limit), tuple(devices[attempt.id])
        footprint = known_footprint(book, spec, wish, device_ids, inventory)
        yield Resident(attempt=attempt, job=job, spec=spec, device_ids=device_ids, footprint=footprint)


def _views(
    rows: Rows, inventory: Inventory, host: str, foreign: Foreign, now: float
) -> tuple[tuple[DeviceView, ...], dict[int, int]]:
    live = {attempt.id: attempt for attempt in rows.live}
    roots = owners(attempt for attempt in rows.live if attempt.host == host)
    reserved: dict[str, dict[int, int]] = defaultdict(dict)
    for reservation in rows.reservations:
        reserved[reservation.device_id][reservation.attempt_id] = reservation.reserved_bytes
    most_held: dict[int, int] = {}
    views = []
    for info in inventory.infos:
        reading = inventory.readings.get(info.id)
        promised = reserved[info.id]
        held = held_bytes(reading, roots, promised) if reading and reading.error is None else {}
        for attempt_id, size in held.items():
            most_held[attempt_id] = max(size, most_held.get(attempt_id, 0))
        claims = tuple(
            _claim(live.get(attempt_id), attempt_id, promised.get(attempt_id, 0), held.get(attempt_id, 0))
            for attempt_id in sorted({*promised, *held})
        )
        views.append(view(info, reading, claims, foreign_bytes=foreign.look(reading, roots), now=now))
    return tuple(views), most_held


def _claim(attempt: Attempt | None, attempt_id: int, reserved_bytes: int, held: int) -> Claim:
    return Claim(
        job_id=attempt.job_id if attempt else 0,
        reserved_bytes=reserved_bytes,
        held_bytes=held,
        exclusive=attempt is not None and bool(json.loads(attempt.plan).get("exclusive")),
    )


def _queued(job: Job, rows: Rows, inventory: Inventory, book: FootprintBook, now: float) -> QueuedJob:
    try:
        return _considered(job, rows, inventory, book, now)
    except MmqError:
        raise  # the store is away: nothing can be done for any job
    except Exception as error:  # one job that we fail on must not stop the queue
        if job.waiting_code != WaitCode.ERROR:
            log.exception("job %d can't be considered", job.id, extra={"job": job.id})
        return _unfit(job.id, f"mmq itself failed on it: {type(error).__name__}: {error}")


def _unfit(job_id: int, problem: str) -> QueuedJob:
    return QueuedJob(job_id=job_id, wish=_ONE_ROW, footprints={}, problem=problem)


def _considered(job: Job, rows: Rows, inventory: Inventory, book: FootprintBook, now: float) -> QueuedJob:
    dependencies = tuple(Dependency(job_id=parent, state=state) for parent, state in rows.dependencies.get(job.id, []))
    blocked = any(dependency.state is not JobState.SUCCEEDED for dependency in dependencies)
    targets = frozenset[Target]() if blocked else inventory.targets
    footprints: dict[str, Footprint | Untraced]
    pace, chosen = UNKNOWN_PACE, None
    try:
        spec = _spec(job.spec)
    except msgspec.DecodeError as error:
        unreadable = Untraced(sentence=f"its stored job file can't be read: {error}", hopeless=True)
        wish, footprints = _ONE_ROW, {target.name: unreadable for target in targets}
    else:
        latest = rows.latest.get(job.attempt_id) if job.attempt_id is not None else None
        ran_out = _ran_out(rows.ran_out.get(job.id, []))
        wish = _wish(job.spec, job.micro_batch_limit, ran_out, job.id in rows.sparing_host)
        footprints = {target.name: book.look_up(job.id, spec, wish, target) for target in targets}
        chosen = _chosen(spec, inventory)
        kind = inventory.infos[0].kind if inventory.infos else "cpu"
        pace = rows.experience.estimate(spec, kind, latest)
    return QueuedJob(
        job_id=job.id,
        wish=wish,
        footprints=footprints,
        priority=job.priority,
        gpus=job.gpus,
        devices=chosen,
        cancel_requested=job.cancel_requested_at is not None,
        dependencies=dependencies,
        pace=pace,
        overuse=rows.overuse.get(job.user_name, 1.0),
        waited_seconds=max(0.0, now - job.submitted_at - rows.ran_seconds.get(job.id, 0.0)),
        resumes=job.attempt_id is not None,
    )


def _chosen(spec: JobSpec, inventory: Inventory) -> frozenset[str] | None:
    """Return the ids of the devices that the job file names, of those that are there; None: it may have any."""
    named = spec.resources.devices
    if named is None:
        return None
    return frozenset(info.id for info in inventory.infos if info.id in named or info.number in named)


_spec = lru_cache(maxsize=4096)(decode)  # a queue is read again every cycle, and specs do not change


@lru_cache(maxsize=4096)  # the same object each cycle: what was worked out for it is found by it
def _wish(spec: str, micro_batch_limit: int | None, ran_out: tuple[RanOut, ...], spares_host: bool) -> Wish:
    return _known(wish_of(_spec(spec), micro_batch_limit=micro_batch_limit, ran_out=ran_out, spares_host=spares_host))


@lru_cache(maxsize=4096)
def _known(wish: Wish) -> Wish:
    """Return the first that was equal to it: what is the same object needs no comparing."""
    return wish


def _ran_out(ended: Sequence[tuple[Attempt, Shortage | None]]) -> tuple[RanOut, ...]:
    """Return with what the attempts ran out of memory, where a smaller micro-batch is not the answer."""
    found = (
        RanOut(
            micro_batch=attempt.micro_batch,
            modes=Modes.from_json(json.loads(attempt.plan)),
            of_states=shortage is not None and shortage.is_of_states,
        )
        for attempt, shortage in ended
    )
    return tuple(one for one in found if one.of_states or one.micro_batch == 1)
