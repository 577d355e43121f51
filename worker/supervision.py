"""Watching a trainer from its start, or its adoption, to its end.

One loop: drain signals, read events, heartbeat, obey, escalate, wait. Signal handlers only append to a list. Owns
the TERM and the KILL; decides nothing about why the trainer ended.
"""

import time
from dataclasses import dataclass

import msgspec

from scheduler.config import GRACE_SECONDS
from scheduler.processes.durable import write_durably
from scheduler.processes.rotation import cut_within, older
from scheduler.store.records import Orders, Resizing
from worker.classification import Ending, Intent
from worker.event_listener import EventListener
from worker.oomkiller import OomKiller
from worker.process import Process, kill_group, sweep, terminate
from worker.reporting import Reporter
from worker.rundir import RunDir
from worker.shimlog import log
from worker.signals import caught_signals

BEAT_SECONDS = 1.0
CANCEL_GRACE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the trainer may take, for all it does and for ending when asked."""

    time_limit_seconds: float | None = None
    stop_grace_seconds: float = GRACE_SECONDS
    cancel_grace_seconds: float = CANCEL_GRACE_SECONDS

    def grace_seconds(self, intent: Intent) -> float:
        hurried = intent in (Intent.CANCEL, Intent.CLOSED)
        return self.cancel_grace_seconds if hurried else self.stop_grace_seconds


@dataclass
class Supervision:
    """The state of the loop."""

    process: Process
    run: RunDir
    listener: EventListener
    reporter: Reporter
    patience: Patience
    log_bytes: int  # that each log of the attempt may take
    ran_seconds: float = 0.0  # before we came
    intent: Intent | None = None
    kill_at: float | None = None  # monotonic
    killed: bool = False
    _resize: Resizing | None = None  # as written

    def watch(self) -> Ending:
        """Stay until the trainer has ended and nothing of it is left."""
        began = time.monotonic()
        oom_killer = OomKiller(self.process.pid, self.process.started)
        with caught_signals() as caught:
            while (exit_ := self.process.ended()) is None:
                if caught.drain():
                    self._want(Intent.STOP)
                self._listen()
                limit = self.patience.time_limit_seconds
                if limit is not None and self.ran_seconds + time.monotonic() - began > limit:
                    self._want(Intent.TIME_LIMIT)
                self._escalate()
                self._cut_logs()
                oom_killer.look()
                caught.wait(self.process, BEAT_SECONDS)
        left = sweep(self.process, self.run.trainer_lock)
        log(f"trainer {self.process.pid} ended: {exit_}" + (f"; killed {left} it left behind" if left else ""))
        self.listener.listen()
        return Ending(
            exit=exit_,
            last=self.listener.summary.last,
            intent=self.intent,
            killed=self.killed,
            result=self.run.read_result(),
            result_exists=self.run.result_exists(),
            oom_killer=oom_killer.evidence(),
            time_limit_seconds=self.patience.time_limit_seconds,
        )

    def _cut_logs(self) -> None:
        for path in (self.run.log, self.run.shim_log):
            if cut_within(path, limit_bytes=self.log_bytes):
                log(f"{path} grew too long: its older part is in {older(path).name}")

    def _listen(self) -> None:
        self.listener.listen()
        orders = self.reporter.beat(self.listener.summary.progress(), time.time())
        if orders is not None:
            self._obey(orders)
            self._pass_on_the_answer()

    def _obey(self, orders: Orders) -> None:
        if orders.ended:
            self._want(Intent.CLOSED)
        elif orders.cancel:
            self._want(Intent.CANCEL)
        elif orders.stop:
            self._want(Intent.STOP)
        elif orders.resize is not None and orders.resize != self._resize:
            self._ask(orders.resize)

    def _pass_on_the_answer(self) -> None:
        """Ring once a request was heeded: a job may be waiting for the memory."""
        if self._resize is not None and self.listener.summary.numbers.get("heeded_number", 0) >= self._resize.number:
            self._resize = None
            self.reporter.ring()

    def _ask(self, resize: Resizing) -> None:
        """Put the request where the trainer looks before each step."""
        try:
            write_durably(self.run.control, msgspec.json.encode(resize).decode())
        except OSError as error:  # asked again at the next beat
            log(f"can't write {self.run.control}: {error.strerror}")
            return
        self._resize = resize
        log(f"asked for micro-batch {resize.micro_batch} within {resize.limit_bytes} bytes, number {resize.number}")

    def _want(self, intent: Intent) -> None:
        """Begin to end the trainer; a cancel overrides what was wanted before, and nothing delays what was begun."""
        if self.intent is not None and intent not in (Intent.CANCEL, Intent.CLOSED):
            return
        if self.intent in (intent, Intent.CLOSED):
            return
        grace_seconds = self.patience.grace_seconds(intent)
        log(f"{intent}: TERM to trainer {self.process.pid}, KILL in {grace_seconds:.0f} s")
        kill_at = time.monotonic() + grace_seconds
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        if self.intent is None:
            terminate(self.process)
        self.intent = intent

    def _escalate(self) -> None:
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            if not self.killed:
                log(f"trainer {self.process.pid} did not end on TERM: KILL")
            self.killed = True
            kill_group(self.process)
