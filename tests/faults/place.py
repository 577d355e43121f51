"""A workplace with short periods, failpoints that can be armed at any time, and, unless real ones are wanted, trainers
that need no torch.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scheduler.controller.loop import RECONCILE_SECONDS
from scheduler.jobs.states import JobState
from tests.acceptance.workplace import REPOSITORY, Workplace, workplace
from tests.faults import curve, invariants
from tests.faults.waits import Waits
from tests.processes import PATIENCE_SECONDS, until

STANDIN = Path(__file__).parent / "standin"
HASTE = 5.0
LONGEST_WAIT_SECONDS = 2 * RECONCILE_SECONDS / HASTE
SLACK_SECONDS = 10.0  # for what does not hasten: programs that start, on a machine that has other things to do


class FaultPlace:
    """A workplace, and what faults need. Keeps account of every submit that was acknowledged."""

    def __init__(self, place: Workplace, failpoints: Path, *, scripted: bool) -> None:
        self.place = place
        self.failpoints = failpoints
        self.scripted = scripted
        self.accepted: list[int] = []
        self.waits = Waits(place.settings, LONGEST_WAIT_SECONDS + SLACK_SECONDS)
        self._hurry = place.root / "hurry"

    def job_file(
        self, name: str, *, steps: int = 12, pause: float = 0.05, lingers: bool = False, **sections: Any
    ) -> None:
        """A job of so many steps, saved every third, with rows of its own and so a pace of its own.

        One that lingers takes its time until it is told to hurry: it is still there, however slow all else is.
        """
        rows = self.place.write_rows(f"{name}.jsonl", ["one two three"] * 8)
        told: dict[str, object] = {"pause": pause}
        if lingers:
            self._hurry.unlink(missing_ok=True)
            told["linger"] = str(self._hurry)
        rows.with_suffix(".json").write_text(json.dumps(told))
        train = {"max_steps": steps, "save_interval": 3} | sections.pop("train", {})
        retries = {"crash": 100}
        self.place.job_file(name, data={"path": rows.name}, train=train, retries=retries, **sections)

    def hurry(self) -> None:
        """Have no trainer linger any more."""
        self._hurry.touch()

    def submit(self, *words: str) -> int:
        job = self.place.submit(*words)
        self.accepted.append(job)
        return job

    def accept(self, told: str) -> None:
        """Note the ids that a submit has printed: from then on they must not be lost, whatever became of it."""
        if told.endswith("\n"):
            first, _, last = told.strip().partition("-")
            self.accepted += range(int(first), int(last or first) + 1)

    def arm(self, place: str, action: str = "kill") -> Path:
        """Arm a failpoint; its file is there until somebody came by."""
        file = self.failpoints / place
        aside = file.with_name(f".{place}.new")
        aside.write_text(action)
        return aside.rename(file)

    def fired(self, place: str) -> None:
        until(lambda: not (self.failpoints / place).exists(), f"somebody at {place}")

    def violations(self) -> list[str]:
        found = invariants.violations(
            self.place.settings, self.accepted, lasting_seconds=LONGEST_WAIT_SECONDS + SLACK_SECONDS
        )
        return found + self.waits.take()

    def until_ended(self, *jobs: int, within_seconds: float = PATIENCE_SECONDS) -> list[str]:
        """Wait for the jobs' ends, and see that none waits while there is room: their states."""

        def ended() -> bool:
            time.sleep(0.1)  # a look reads whole tables
            with self.place.store() as db:
                self.waits.look(db)
            return all(JobState(self.place.state(job)).ended for job in jobs)

        until(ended, f"the end of jobs {jobs}", within_seconds=within_seconds)
        return [self.place.state(job) for job in jobs]

    def undisturbed(self, job: int, steps: int = 12) -> bool:
        """Whether the job succeeded with the curve of a run to which nothing happened."""
        assert self.until_ended(job) == ["succeeded"], self.place.story(job)
        assert self.place.losses(job) == curve.undisturbed(steps)
        return True


@contextmanager
def fault_place(
    devices: str = "virtual:2x256MiB", *, scripted: bool = True, **environment: str
) -> Iterator[FaultPlace]:
    source = f"{STANDIN}:{REPOSITORY}" if scripted else str(REPOSITORY)
    told = {"PYTHONPATH": source, "MMQ_HASTE": str(HASTE)} | environment
    with workplace(devices, **told) as place:
        failpoints = place.root / "failpoints"
        failpoints.mkdir()
        place.environment["MMQ_FAILPOINTS"] = str(failpoints)
        found = FaultPlace(place, failpoints, scripted=scripted)
        found.job_file("job")
        yield found
