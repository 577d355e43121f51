"""A seeded random walk of faults over a queue of small jobs: `python -m tests.faults.chaos --faults 1000 --seed 7`.

Kills of every process, failpoints, broker restarts and flushes, clock jumps, full disks, foreign memory and cancels
come as they come, the next before the last is mended. At the end nothing that was acknowledged is lost, no attempt was
doubled, and each loss curve is that of a run to which nothing happened. Most trainers are stand-ins; some are real.
The seed decides what is done; when the processes meet it is theirs.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from scheduler.failpoints import PLACES
from scheduler.processes.liveness import process_started
from scheduler.processes.signalling import send
from scheduler.service.lock import holder
from tests.acceptance.workplace import gone, until
from tests.faults import curve
from tests.faults.place import FaultPlace, fault_place
from tests.faults.world import World

STEPS, REAL_STEPS = 40, 60
FEWEST = 5  # jobs that there always are to do something to
MIB = 1024**2
TWO_HOURS_SECONDS = 7200
# How often each is drawn. A trainer or a shim is not always there, so that they are drawn more often; of what comes to
# pass, the kills of the seven kinds of process are three quarters, and about as many of each.
WEIGHTS = {
    "kill worker": 11,
    "kill controller": 9,
    "kill broker": 11,
    "kill service": 11,
    "kill shim": 26,
    "kill trainer": 28,
    "kill submit": 9,
    "failpoint": 8,
    "term worker": 2,
    "flush": 3,
    "hung broker": 2,
    "clock": 3,
    "disk full": 3,
    "kill at a change of the disk": 8,
    "foreign memory": 3,
    "cancel": 2,
}


@dataclass
class Report:
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    curves: int = 0  # equal to the undisturbed run's
    took_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.done.total()} faults in {self.took_seconds:.0f} s"]
        lines += [f"  {number:4}  {name}" for name, number in sorted(self.done.items())]
        states = ", ".join(f"{number} {state}" for state, number in sorted(self.jobs.items()))
        lines.append(f"jobs: {states}; {self.attempts} attempts; {self.curves} curves equal to the undisturbed")
        return "\n".join([*lines, *(f"WRONG: {one}" for one in self.wrong), f"{len(self.wrong)} things are wrong"])


class Chaos:
    def __init__(self, faulty: FaultPlace, world: World, seed: int, real: int) -> None:
        self.faulty, self.place, self.world = faulty, faulty.place, world
        self.dice = random.Random(seed)
        self.report = Report(seed)
        self.real: list[int] = []
        self.cancelled: set[int] = set()
        self._real_wanted = real
        self._entry: Path | None = None
        faulty.job_file("small", steps=STEPS)
        faulty.job_file("real", train={"max_steps": REAL_STEPS, "save_interval": 20})
        (self.place.root / "real.json").write_text(json.dumps({"real": True}))

    def run(self, faults: int) -> Report:
        began = time.monotonic()
        self.up()
        reference = self._reference()
        for _ in range(self._real_wanted):
            self.real.append(self.faulty.submit("real.yaml"))
        while self.report.done.total() < faults:
            if holder(self.place.settings.service_lock) is None:
                self.up()
            self.fill()
            name = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if self.faults[name]():
                self.report.done[name] += 1
                if self.report.done.total() % 100 == 0:
                    print(f"{self.report.done.total()} faults", file=sys.stderr, flush=True)
            time.sleep(self.dice.random() * 0.4)
        self.calm()
        self.judge(reference)
        self.report.took_seconds = time.monotonic() - began
        return self.report

    @property
    def faults(self) -> dict[str, Callable[[], bool]]:
        """What to do under each name; each answers whether there was anything to do it to."""
        return {
            "kill worker": lambda: self.kill_child("worker"),
            "kill controller": lambda: self.kill_child("controller"),
            "kill broker": lambda: self.kill_child("broker"),
            "kill service": self.kill_service,
            "kill shim": lambda: self.kill_of_attempt("shim_pid", "shim_started"),
            "kill trainer": lambda: self.kill_of_attempt("pid", "pid_started"),
            "kill submit": self.kill_submit,
            "failpoint": self.arm,
            "term worker": lambda: self.kill_child("worker", signal.SIGTERM),
            "flush": self.flush,
            "hung broker": self.hang_broker,
            "clock": self.jump,
            "disk full": self.fill_disk,
            "kill at a change of the disk": self.kill_at_a_change,
            "foreign memory": self.take_memory,
            "cancel": self.cancel,
        }

    def fill(self) -> None:
        """Keep the queue from running dry."""
        (row,) = self.place.query(
            "SELECT COUNT(*) AS n FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
        )
        if row["n"] < FEWEST:
            self.accept(self.place.mmq("submit", "small.yaml", "--sweep", "train.seed=1,2,3,4,5,6").out)

    def kill_child(self, name: str, number: int = signal.SIGKILL) -> bool:
        with contextlib.suppress(AssertionError, OSError, KeyError):  # in the moment between two of them there is none
            os.kill(self.place.children()[name], number)
            return True
        return False

    def kill_service(self) -> bool:
        found = holder(self.place.settings.service_lock)
        if found is None or not send(found.pid, found.started, signal.SIGKILL):
            return False
        until(lambda: gone(found.pid), "the service's end")
        self.up()
        return True

    def kill_of_attempt(self, pid: str, started: str) -> bool:
        rows = self.place.query(f"SELECT {pid} AS pid, {started} AS started FROM attempts WHERE state <> 'ended'")
        known = [row for row in rows if row["pid"] is not None and process_started(row["pid"]) == row["started"]]
        return bool(known) and send(**self.dice.choice(known), number=signal.SIGKILL)

    def kill_submit(self) -> bool:
        """Kill it at any moment; what it has printed by then is acknowledged."""
        submit = self.place.start("submit", "small.yaml")
        with contextlib.suppress(subprocess.TimeoutExpired):
            submit.wait(self.dice.random() * 0.8)
        killed = submit.poll() is None
        submit.kill()
        self.accept(submit.communicate()[0])
        return killed

    def accept(self, told: str) -> None:
        """Note the ids that a submit has printed: from then on they must not be lost, whatever became of it."""
        if told.endswith("\n"):
            first, _, last = told.strip().partition("-")
            self.faulty.accepted += range(int(first), int(last or first) + 1)

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
        if not self.kill_child("broker", signal.SIGSTOP):
            return False
        time.sleep(1)
        self.kill_child("broker", signal.SIGCONT)
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

    def take_memory(self) -> bool:
        """Hold memory of a device as a stranger would, until the next time."""
        self.give_back()
        ledger = self.dice.choice([path for path in self.place.settings.ledger_dir.iterdir() if path.is_dir()])
        self._entry = ledger / f"{os.getpid()}-{process_started(os.getpid())}"
        self._entry.write_text(f"{60 * MIB:020d}")
        return True

    def give_back(self) -> None:
        if self._entry is not None:
            self._entry.unlink(missing_ok=True)

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

    def up(self) -> None:
        """Start the service; what is armed may hit it, so that it takes another time."""
        for _ in range(5):
            if self.place.mmq("up", "--detach").code == 0:
                return

    def calm(self) -> None:
        """Let the world be as it should, and wait for what is under way."""
        for file in self.faulty.failpoints.iterdir():
            file.unlink()
        self.world.set(clock_offset_seconds=0)
        self.world.calm()
        self.give_back()
        self.up()
        while unended := self._unended():
            self.place.until_ended(*unended)
            for row in self.place.query("SELECT id FROM jobs WHERE state = 'failed' AND reason = 'disk_full'"):
                self.place.ok("retry", str(row["id"]))  # as its remedy says

    def judge(self, reference: dict[int, float]) -> None:
        wrong = self.report.wrong
        wrong += self.faulty.violations()
        expected = curve.undisturbed(STEPS)
        for row in self.place.query("SELECT id, name, state, reason, message FROM jobs ORDER BY id"):
            job, state = row["id"], row["state"]
            self.report.jobs[state] += 1
            if state == "cancelled" and job in self.cancelled:
                continue
            if state != "succeeded":
                wrong.append(f"job {job} is {state}: {row['reason']}: {row['message']}")
            elif self.place.losses(job) != (reference if row["name"] == "real" else expected):
                wrong.append(f"job {job} ({row['name']}) has another curve than the undisturbed run")
            else:
                self.report.curves += 1
        (row,) = self.place.query("SELECT COUNT(*) AS n FROM attempts")
        self.report.attempts = row["n"]

    def _unended(self) -> list[int]:
        rows = self.place.query(
            "SELECT id FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
            " OR (state = 'failed' AND reason = 'disk_full')"
        )
        return [row["id"] for row in rows]

    def _reference(self) -> dict[int, float]:
        """The curve of a real job while nothing happens yet."""
        if not self._real_wanted:
            return {}
        job = self.faulty.submit("real.yaml")
        assert self.place.until_ended(job) == ["succeeded"], self.place.story(job)
        return self.place.losses(job)


@contextlib.contextmanager
def stage(seed: int, real: int) -> Iterator[Chaos]:
    with fault_place("virtual:3x256MiB") as faulty, tempfile.TemporaryDirectory(prefix="mmq-world-") as folder:
        world = World.make(Path(folder), faulty.place.home)
        faulty.place.environment |= world.environment
        try:
            yield Chaos(faulty, world, seed, real)
        finally:
            world.set(clock_offset_seconds=0)
            world.calm()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--real", type=int, default=6, help="jobs with a real trainer")
    parser.add_argument("--keep", type=Path, help="where to copy the home to if something is wrong")
    told: Any = parser.parse_args(arguments)
    print(f"seed {told.seed}", flush=True)
    with stage(told.seed, told.real) as chaos:
        try:
            report = chaos.run(told.faults)
        except BaseException:
            print(chaos.report)
            _keep(chaos, told.keep)
            raise
        if report.wrong:
            _keep(chaos, told.keep)
    print(report)
    return 1 if report.wrong else 0


def _keep(chaos: Chaos, where: Path | None) -> None:
    if where is not None:
        subprocess.run(["cp", "-r", str(chaos.place.home), str(where)], check=False)


if __name__ == "__main__":
    sys.exit(main())
