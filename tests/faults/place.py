"""A workplace with short periods, failpoints that can be armed at any time, and, unless real ones are wanted, trainers
that need no torch.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.workplace import REPOSITORY, Workplace, until, workplace
from tests.faults import curve, invariants

STANDIN = Path(__file__).parent / "standin"
HASTE = 5.0


class FaultPlace:
    """A workplace, and what faults need. Keeps account of every submit that was acknowledged."""

    def __init__(self, place: Workplace, failpoints: Path) -> None:
        self.place = place
        self.failpoints = failpoints
        self.accepted: list[int] = []

    def job_file(self, name: str, *, steps: int = 12, pause: float = 0.05, **sections: Any) -> None:
        """A job of so many steps, saved every third, with rows of its own and so a pace of its own."""
        rows = self.place.write_rows(f"{name}.jsonl", ["one two three"] * 8)
        rows.with_suffix(".json").write_text(json.dumps({"pause": pause}))
        train = {"max_steps": steps, "save_interval": 3} | sections.pop("train", {})
        retries = {"crash": 100}
        self.place.job_file(name, data={"path": rows.name}, train=train, retries=retries, **sections)

    def submit(self, *words: str) -> int:
        job = self.place.submit(*words)
        self.accepted.append(job)
        return job

    def arm(self, place: str, action: str = "kill") -> Path:
        """Arm a failpoint; its file is there until somebody came by."""
        file = self.failpoints / place
        aside = file.with_name(f".{place}.new")
        aside.write_text(action)
        return aside.rename(file)

    def fired(self, place: str) -> None:
        until(lambda: not (self.failpoints / place).exists(), f"somebody at {place}", within_seconds=60)

    def violations(self) -> list[str]:
        return invariants.violations(self.place.settings, self.accepted, haste=HASTE)

    def undisturbed(self, job: int, steps: int = 12) -> bool:
        """Whether the job succeeded with the curve of a run to which nothing happened."""
        assert self.place.until_ended(job) == ["succeeded"], self.place.story(job)
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
        found = FaultPlace(place, failpoints)
        found.job_file("job")
        yield found
