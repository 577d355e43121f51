"""Hearing a trainer out: each of its events folded into the numbers and, where people care, into the job's story."""

import time
from dataclasses import dataclass, field

from worker.progress import NOTED, Told, happened_at
from worker.reporting import Reporter
from worker.tail import Tail


@dataclass
class Hearing:
    tail: Tail
    reporter: Reporter
    noted_until: float | None = None  # a shim before us has put the events up to then into the story
    told: Told = field(default_factory=Told)

    def listen(self) -> None:
        """Take in what the trainer has said since the last time."""
        for event in self.tail.read():
            self.told.take(event)
            if event["event"] in NOTED:
                at = happened_at(event) or time.time()
                if self.noted_until is None or at > self.noted_until:
                    self.reporter.note(event, at)
