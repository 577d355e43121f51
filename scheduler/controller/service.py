"""The controller: an admission cycle when something rang or time has passed, and a reconcile pass beside it.

Crash-only: every step leaves the store true, so an error nobody expected ends the process, and the supervisor starts
a new one. Holds in memory what may be forgotten: footprints, and what was published when.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Decision
from scheduler.admission.facts import QueuedJob
from scheduler.config import Settings
from scheduler.controller import corrections
from scheduler.controller.colocation import Watch, step_reports
from scheduler.controller.dispatch import Dispatch, Publisher
from scheduler.controller.effects import Effects
from scheduler.controller.follow import follow
from scheduler.controller.footprints import AsksTracer, FootprintBook
from scheduler.controller.foreign import Foreign
from scheduler.controller.inventory import Discovery, Inventory
from scheduler.controller.leftovers import Leftovers
from scheduler.controller.lock import component
from scheduler.controller.metrics import write_file
from scheduler.controller.reconcile import reconcile
from scheduler.controller.record import Cycle, Recorder
from scheduler.controller.snapshot import Snapshot, read, take
from scheduler.controller.userlimit import within_limit
from scheduler.devices.device import Devices
from scheduler.failpoints import failpoint
from scheduler.store import attempts, heartbeats, observations, paces, queueing, views
from scheduler.store import devices as device_rows
from scheduler.store.database import Database

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """This process, as the heartbeat row names it."""

    pid: int
    pid_started: int


@dataclass
class Cycles:
    """What the cycles so far have cost."""

    count: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0

    def took(self, seconds: float) -> None:
        self.count, self.seconds, self.last_seconds = self.count + 1, self.seconds + seconds, seconds

    def figures(self) -> dict[str, float]:
        return {"cycles_total": self.count, "cycle_seconds_total": self.seconds, "cycle_seconds": self.last_seconds}


@dataclass(kw_only=True)
class Controller:
    """One host's controller. `cycle` and `reconcile` may be called at any time, in any order."""

    db: Database
    settings: Settings
    devices: Devices
    tracer: AsksTracer
    publisher: Publisher
    identity: Identity
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    _errors: dict[str, str] = field(default_factory=dict)  # of devices, as logged
    _metrics_failure: str | None = None  # as logged
    _cycles: Cycles = field(default_factory=Cycles)

    def __post_init__(self) -> None:
        self._discovery = Discovery(self.devices)
        self._recorder = Recorder(self.settings.cycle_record)
        self._leftovers = Leftovers(self.db, self.clock)
        self._foreign = Foreign(self.monotonic, self.settings.ignored_pids, self._leftovers.is_ours)
        self._dispatch = Dispatch(self.db, self.publisher)
        self._watch = Watch()
        taught = partial(corrections.read, self.db, self.settings.host)
        self._book = FootprintBook(self.db, self.tracer, taught=taught, monotonic=self.monotonic)

    def reconcile(self) -> None:
        """See which devices there are, publish what live attempts need, and write the figures where they are wanted."""
        now = self.clock()
        if self.settings.metrics_file is not None:
            self._write_metrics(self.settings.metrics_file, now)
        device_rows.upsert(self.db, self._discovery.discover(), self.settings.host)
        reconcile(attempts.live(self.db, self.settings.host), self._dispatch, now=now)

    def _write_metrics(self, path: Path, now: float) -> None:
        failure = write_file(self.db, path, now=now)
        if failure is not None and failure != self._metrics_failure:
            log.warning("the metrics can't be written: %s", failure)
        self._metrics_failure = failure

    def cycle(self) -> bool:
        """Look, decide, act. Returns whether anything is queued or under way."""
        began = self.monotonic()
        busy = self._cycle()
        self._cycles.took(self.monotonic() - began)
        return busy

    def _cycle(self) -> bool:
        now = self.clock()
        self._book.collect(now=now)
        rows = read(self.db, now=now)
        inventory = self._look()  # after the rows: a reading tells of no plan that has been left by then
        snapshot = take(rows, self.settings, inventory, self._book, self._foreign, now=now)
        self._raise_peaks(snapshot)
        queueing.write_remaining(self.db, snapshot.remaining_seconds)
        running = [resident.job.id for resident in snapshot.residents]
        queue, beyond = within_limit(snapshot.jobs, running, snapshot.users, self.settings.user_limit)
        decisions = decide(
            queue,
            snapshot.running,
            snapshot.devices,
            preemptions_left=snapshot.preemptions_left,
            more_seconds=snapshot.more_seconds,
        )
        if decisions:
            failpoint("admission.decided")
        Effects(
            db=self.db,
            settings=self.settings,
            devices=self.devices,
            dispatch=self._dispatch,
            inventory=inventory,
            queue=queue,
            residents=snapshot.residents,
            reasons=snapshot.reasons,
            now=now,
        ).apply([*decisions, *beyond])
        self._record(snapshot, queue, decisions, now)
        self._leftovers.report(inventory.readings.values())
        follow(self.db, snapshot, decisions, now=now)
        self._watch_neighbours(snapshot, inventory, now)
        self._publish_again()
        self._beat(now)
        return views.unended(self.db)

    def _look(self) -> Inventory:
        inventory = self._discovery.look()
        device_rows.write_readings(self.db, inventory.readings.values())
        errors = {one.device_id: one.error for one in inventory.readings.values() if one.error is not None}
        for device_id in errors.keys() - self._errors.keys():
            log.warning("device %s is not used: %s", device_id, errors[device_id], extra={"device": device_id})
        self._errors = errors
        return inventory

    def _raise_peaks(self, snapshot: Snapshot) -> None:
        """Keep the most that each attempt was seen to hold, also between two reports of its trainer's."""
        live = (one.attempt for one in snapshot.residents)
        settled = (one for one in live if not one.resizing)  # else it may run by the new plan already
        observations.raise_process_peaks(self.db, [(one, snapshot.held.get(one.id, 0)) for one in settled])

    def _record(
        self, snapshot: Snapshot, queue: Sequence[QueuedJob], decisions: Sequence[Decision], now: float
    ) -> None:
        """Leave the facts of this cycle for `mmq why`."""
        cycle = Cycle(
            at=now,
            jobs=tuple(queue),
            running=snapshot.running,
            devices=snapshot.devices,
            preemptions_left=snapshot.preemptions_left,
            more_seconds=snapshot.more_seconds,
            decisions=tuple(decisions),
        )
        self._recorder.note(cycle)

    def _watch_neighbours(self, snapshot: Snapshot, inventory: Inventory, now: float) -> None:
        here = step_reports(snapshot.residents, snapshot.devices, inventory)
        measured = self._watch.look(here, clock_ahead_seconds=self.clock() - self.monotonic())
        if measured:
            paces.note(self.db, measured, at=now)
        live = {one.attempt.id: one.attempt for one in snapshot.residents}
        for one, other, reached in self._watch.slower(here, snapshot.apart):
            detail = {"job": live[other].job_id, "reached": reached}
            observations.note(self.db, live[one], "slower_together", detail, at=now)

    def _publish_again(self) -> None:
        """While the broker is away, don't leave it to the next reconcile pass."""
        if self._dispatch.complaint is not None:
            reconcile(attempts.live(self.db, self.settings.host), self._dispatch, now=self.clock())

    def _beat(self, now: float) -> None:
        detail = {"devices": self._discovery.complaint, "broker": self._dispatch.complaint}
        heartbeats.beat(
            self.db,
            component(self.settings),
            self.identity.pid,
            self.identity.pid_started,
            {name: complaint for name, complaint in detail.items() if complaint is not None} | self._cycles.figures(),
            at=now,
        )
