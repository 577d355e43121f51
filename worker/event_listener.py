"""Listens to a trainer: each of its events goes into the summary and, where people care, into the job's story."""

import time
from dataclasses import dataclass, field

from worker.progress import NOTED, EventSummary, happened_at
from worker.reporting import Reporter
from worker.tail import Tail


@dataclass
class EventListener:
    tail: Tail
    reporter: Reporter
    noted_until: float | None = None  # an earlier shim has put the events up to then into the story
    summary: EventSummary = field(default_factory=EventSummary)

    def listen(self) -> None:
        """Take in the events since the last call."""
        for event in self.tail.read():
            self.summary.add(event)
            if event["event"] in NOTED:
                at = happened_at(event) or time.time()
                if self.noted_until is None or at > self.noted_until:
                    self.reporter.note(event, at)
