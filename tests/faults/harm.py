"""What can be done to a running service and its jobs, each under a name; the dice say to whom, when and how hard.

Each deed answers whether it was done: a kill counts where it hit a living process, and no other.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from scheduler.failpoints import PLACES
from scheduler.processes.liveness import process_started
from scheduler.processes.process_tree import descendants
from scheduler.processes.signalling import send
from scheduler.service.lock import holder
from scheduler.service.roles import roles
from tests.faults.place import FaultPlace
from tests.faults.waits import free_bytes
from tests.faults.world import World
from tests.processes import gone, hold, until

JOB = "small.yaml"  # what is submitted, and killed at it
TWO_HOURS_SECONDS = 7200


class Harm:
    """With `at_work`, a part of the service is killed only once it is: else it may be just starting."""

    def __init__(self, faulty: FaultPlace, world: World, dice: random.Random, *, at_work: bool) -> None:
        self.faulty, self.place, self.world, self.dice = faulty, faulty.place, world, dice
        self.cancelled: set[int] = set()
        self.submit_seconds = 0.8  # that a submit takes, about
        self._is_ready = {role.name: role.is_ready for role in roles(self.place.settings, None)} if at_work else {}
        self._entry: Path | None = None  # of a stranger in a ledger
        self._held_bytes = 0
        self.deeds: dict[str, Callable[[], bool]] = {
            "kill worker": lambda: self.kill_child("worker"),
            "kill controller": lambda: self.kill_child("controller"),
            "kill broker": lambda: self.kill_child("broker"),
            "kill service": self.kill_service,
            "kill shim": self.kill_shim,
            "kill trainer": self.kill_trainer,
            "kill submit": self.kill_submit,
            "failpoint": self.arm,
            "term worker": lambda: self.kill_child("worker", signal.SIGTERM),
            "flush": self.flush,
            "hung broker": self.hang_broker,
            "clock": self.jump,
            "disk full": self.fill_disk,
            "kill at a change of the disk": self.kill_at_a_change,
            "foreign memory": self.move_memory,
            "cancel": self.cancel,
        }

    def kill_child(self, name: str, number: int = signal.SIGKILL) -> bool:
        if name in self._is_ready:
            until(lambda: self._works(name), f"{name} at work")
            time.sleep(self.dice.random() * 0.2)
        return (pid := self._child(name)) is not None and _signal(pid, number)

    def kill_service(self) -> bool:
        found = holder(self.place.settings.service_lock)
        return found is not None and _signal(found.pid, signal.SIGKILL)

    def kill_shim(self) -> bool:
        pid = self._living("shim_pid", "shim_started")
        return pid is not None and _signal(pid, signal.SIGKILL)

    def kill_trainer(self) -> bool:
        """Kill any process of it: of a job over several devices the launcher, or one that trains."""
        pid = self._living("pid", "pid_started")
        return pid is not None and _signal(self.dice.choice(sorted({pid, *descendants(pid)})), signal.SIGKILL)

    def kill_submit(self) -> bool:
        """Kill it at any moment; what it has printed by then is acknowledged."""
        submit = self.place.start("submit", JOB)
        with contextlib.suppress(subprocess.TimeoutExpired):
            submit.wait(self.dice.random() * self.submit_seconds)
        submit.kill()
        self.faulty.accept(submit.communicate()[0])
        return submit.returncode == -signal.SIGKILL

    def arm(self) -> bool:
        where = self.dice.choice(list(PLACES))
        self.faulty.arm(where, self.dice.choice(["kill", "kill", "error", "delay 1"]))
        return True

    def flush(self) -> bool:
        with (
            contextlib.suppress(redis.exceptions.RedisError),
            redis.Redis(unix_socket_path=str(self.place.settings.broker_socket), socket_timeout=2) as client,
        ):
            client.flushall()
            return True
        return False

    def hang_broker(self) -> bool:
        pid = self._child("broker")
        if pid is None or not _signal(pid, signal.SIGSTOP):
            return False
        time.sleep(1)
        _signal(pid, signal.SIGCONT)
        return True

    def jump(self) -> bool:
        self.world.set(clock_offset_seconds=self.dice.choice([-TWO_HOURS_SECONDS, 0, TWO_HOURS_SECONDS]))
        return True

    def fill_disk(self) -> bool:
        """From one of the next changes on there is no space, for a moment."""
        self.world.full_from(self.dice.randint(1, 40))
        time.sleep(self.dice.random())
        self.world.calm()
        return True

    def kill_at_a_change(self) -> bool:
        """Kill whoever makes one of the next changes of the disk."""
        self.world.kill_at(self.dice.randint(1, 150))
        return True

    def move_memory(self) -> bool:
        """Hold memory of a device as a stranger would: it comes, shrinks, goes; never what is promised to a job."""
        if self._entry is None:
            with self.place.store() as db:
                number, free = self.dice.choice(sorted(free_bytes(db, self.place.settings).items()))
            self._hold(self.place.settings.ledger_dir / f"virtual-{number}", max(0, free))
        elif self.dice.random() < 0.5:
            self._hold(self._entry.parent, self._held_bytes)
        else:
            self.give_back()
        return True

    def give_back(self) -> None:
        if self._entry is not None:
            self._entry.unlink()
            self._entry = None

    def cancel(self) -> bool:
        rows = self.place.query(
            "SELECT id FROM jobs WHERE state IN ('queued', 'admitted', 'running') AND name = 'small'"
        )
        if not rows:
            return False
        job = self.dice.choice(rows)["id"]
        self.cancelled.add(job)
        self.place.mmq("cancel", str(job))
        return True

    def end(self) -> None:
        """Let nothing more happen."""
        for file in self.faulty.failpoints.iterdir():
            file.unlink()
        self.world.set(clock_offset_seconds=0)
        self.world.calm()
        self.give_back()

    def _hold(self, ledger: Path, most_bytes: int) -> None:
        self._held_bytes = self.dice.randint(0, most_bytes)
        self._entry = hold(ledger, os.getpid(), self._held_bytes)

    def _child(self, name: str) -> int | None:
        with contextlib.suppress(AssertionError, OSError):  # in the moment between two of them there is none
            return self.place.children().get(name)
        return None

    def _works(self, name: str) -> bool:
        pid = self._child(name)
        return pid is not None and self._is_ready[name](pid)

    def _living(self, pid: str, started: str) -> int | None:
        """A process of one of the attempts that live, of those that do live themselves."""
        rows = self.place.query(f"SELECT {pid} AS pid, {started} AS started FROM attempts WHERE state <> 'ended'")
        known = [row["pid"] for row in rows if row["pid"] and process_started(row["pid"]) == row["started"]]
        return self.dice.choice(known) if known else None


def _signal(pid: int, number: int) -> bool:
    """Signal a process, if it lives, and see it gone where that is what it must come to."""
    started = process_started(pid)
    if started is None or not send(pid, started, number):
        return False
    if number == signal.SIGKILL:
        until(lambda: gone(pid), f"the end of {pid}")
    return True
