"""A seeded random walk of faults over a queue of small jobs: `python -m tests.faults.chaos --faults 1000 --seed 7`.

Kills of every process, failpoints, broker restarts and flushes, clock jumps, full disks, foreign memory and cancels
come as they come, the next before the last is mended. At the end nothing that was acknowledged is lost, no attempt was
doubled, and each loss curve is that of a run to which nothing happened. Most trainers are stand-ins; some are real, and
some jobs are over two devices, by torch's launcher. The seed decides what is done; when processes meet it is theirs.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.service.lock import holder
from tests.faults import curve
from tests.faults.harm import JOB, Harm
from tests.faults.place import FaultPlace, fault_place
from tests.faults.world import World

STEPS, REAL_STEPS = 40, 60
CALM_SECONDS = 600.0  # for all that is left at the end
FEWEST = 5  # jobs that there always are to do something to
KILLS = ("submit", "controller", "worker", "shim", "trainer", "broker", "service")
# How often each is drawn. The kills of the seven kinds of process are three quarters of all.
WEIGHTS = {f"kill {process}": 11 for process in KILLS} | {
    "failpoint": 6,
    "term worker": 1,
    "flush": 2,
    "hung broker": 1,
    "clock": 2,
    "disk full": 2,
    "kill at a change of the disk": 6,
    "foreign memory": 4,
    "cancel": 2,
}


def random_walk(dice: random.Random, faults: int) -> list[str]:
    return dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=faults)


def rounds_of_kills(dice: random.Random, rounds: int) -> list[str]:
    """Each kind of process once a round, in any order."""
    return [f"kill {process}" for _ in range(rounds) for process in dice.sample(KILLS, len(KILLS))]


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
        lines = [f"seed {self.seed}: {self.done.total()} faults, all in {self.took_seconds:.0f} s"]
        lines += [f"  {number:4}  {name}" for name, number in sorted(self.done.items())]
        states = ", ".join(f"{number} {state}" for state, number in sorted(self.jobs.items()))
        lines.append(f"jobs: {states}; {self.attempts} attempts; {self.curves} curves equal to the undisturbed")
        return "\n".join([*lines, *(f"WRONG: {one}" for one in self.wrong), f"{len(self.wrong)} things are wrong"])


class Chaos:
    """Jobs that run and wait, and what is done to them.

    `real` and `gangs`: how many such jobs are among them. `pause_seconds`: of a small one's trainer, after each step.
    """

    def __init__(
        self, faulty: FaultPlace, harm: Harm, seed: int, *, real: int, gangs: int, pause_seconds: float
    ) -> None:
        self.faulty, self.place, self.harm = faulty, faulty.place, harm
        self.report = Report(seed)
        self._real, self._gangs = real, gangs
        faulty.job_file("small", steps=STEPS, pause=pause_seconds)
        faulty.job_file("gang", steps=STEPS, resources={"gpus": 2})
        faulty.job_file("real", train={"max_steps": REAL_STEPS, "save_interval": 20})
        (self.place.root / "real.json").write_text(json.dumps({"real": True}))

    def run(self, plan: Iterable[str]) -> Report:
        began = time.monotonic()
        self.up()
        reference = self._reference()
        for _ in range(self._real):
            self.faulty.submit("real.yaml")
        for name in plan:
            while not self._do(name):
                pass  # there was nobody to do it to
            self.report.done[name] += 1
            if self.report.done.total() % 100 == 0:
                print(f"{self.report.done.total()} faults", file=sys.stderr, flush=True)
        self.calm()
        self.judge(reference)
        self.report.took_seconds = time.monotonic() - began
        return self.report

    def _do(self, name: str) -> bool:
        if holder(self.place.settings.service_lock) is None:
            self.up()
        self.fill()
        done = self.harm.deeds[name]()
        time.sleep(self.harm.dice.random() * 0.4)
        return done

    def fill(self) -> None:
        """Keep the queue from running dry, and a job over two devices among the others."""
        unended = "FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
        (row,) = self.place.query(f"SELECT COUNT(*) AS n, COALESCE(SUM(gpus = 2), 0) AS gangs {unended}")
        if row["n"] < FEWEST:
            began = time.monotonic()
            self.faulty.accept(self.place.mmq("submit", JOB, "--sweep", "train.seed=1,2,3,4,5,6").out)
            self.harm.submit_seconds = time.monotonic() - began
        if self._gangs and not row["gangs"]:
            self._gangs -= 1
            self.faulty.accept(self.place.mmq("submit", "gang.yaml").out)

    def up(self) -> None:
        """Start the service; what is armed may hit it, so that it takes another time."""
        for _ in range(5):
            if self.place.mmq("up", "--detach").code == 0:
                return

    def calm(self) -> None:
        """Let the world be as it should, and wait for what is under way."""
        self.harm.end()
        self.up()
        while unended := self._unended():
            self.faulty.until_ended(*unended, within_seconds=CALM_SECONDS)
            for row in self.place.query("SELECT id FROM jobs WHERE state = 'failed' AND reason = 'disk_full'"):
                self.place.ok("retry", str(row["id"]))  # as its remedy says

    def judge(self, reference: dict[int, float]) -> None:
        wrong = self.report.wrong
        wrong += self.faulty.violations()
        expected = curve.undisturbed(STEPS)
        for row in self.place.query("SELECT id, name, state, reason, message FROM jobs ORDER BY id"):
            job, state = row["id"], row["state"]
            self.report.jobs[state] += 1
            if state == "cancelled" and job in self.harm.cancelled:
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
        if not self._real:
            return {}
        job = self.faulty.submit("real.yaml")
        assert self.place.until_ended(job) == ["succeeded"], self.place.story(job)
        return self.place.losses(job)


@contextlib.contextmanager
def stage(
    seed: int, *, real: int = 0, gangs: int = 0, pause_seconds: float = 0.05, at_work: bool = False
) -> Iterator[Chaos]:
    with fault_place("virtual:3x256MiB") as faulty, tempfile.TemporaryDirectory(prefix="mmq-world-") as folder:
        world = World.make(Path(folder), faulty.place.home)
        faulty.place.environment |= world.environment
        harm = Harm(faulty, world, random.Random(seed), at_work=at_work)
        try:
            yield Chaos(faulty, harm, seed, real=real, gangs=gangs, pause_seconds=pause_seconds)
        finally:
            harm.end()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--real", type=int, default=6, help="jobs with a real trainer")
    parser.add_argument("--gangs", type=int, default=20, help="jobs over two devices")
    parser.add_argument("--keep", type=Path, help="where to copy the home to if something is wrong")
    told: Any = parser.parse_args(arguments)
    print(f"seed {told.seed}", flush=True)
    with stage(told.seed, real=told.real, gangs=told.gangs) as chaos:
        try:
            report = chaos.run(random_walk(chaos.harm.dice, told.faults))
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
