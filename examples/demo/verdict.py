"""What the demo has to show, checked on what mmq reports and on the runs' own events."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Story:
    """One job with its attempts, as `mmq status JOB --json` tells it, and its run's events."""

    job: dict[str, Any]
    attempts: list[dict[str, Any]]
    run_events: list[dict[str, Any]]

    @classmethod
    def of(cls, status: dict[str, Any]) -> "Story":
        job = status["jobs"][0]
        lines = (Path(job["run_dir"]) / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return cls(job=job, attempts=status["attempts"], run_events=[json.loads(line) for line in lines])

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.run_events if event["event"] == "step"]

    @property
    def halvings(self) -> list[str]:
        told = (event for event in self.run_events if event["event"] == "out_of_memory")
        return [f"{event['micro_batch']} to {event['new_micro_batch']}" for event in told]

    @property
    def kept_effective_batch(self) -> bool:
        asked = self.job["effective_batch"]
        return all(event["effective_batch"] == asked for event in self.run_events if event["event"] == "started")


def shared_device(stories: list[Story]) -> tuple[str, str, str] | None:
    """Two jobs whose attempts were on one device at one time, and that device."""
    for one, other in combinations(stories, 2):
        for a in one.attempts:
            for b in other.attempts:
                overlap = min(a["ended_at"], b["ended_at"]) > max(a["started_at"], b["started_at"])
                if a["device"] == b["device"] and overlap:
                    return one.job["name"], other.job["name"], a["device"]
    return None


def findings(stories: list[Story], *, greedy: str) -> Iterator[tuple[bool, str]]:
    """Each thing the demo has to show: whether it did, and a sentence with the numbers."""
    for story in stories:
        name, state = story.job["name"], story.job["state"]
        yield state == "succeeded", f"{name} {state}"
        if story.losses:
            first, last = story.losses[0], story.losses[-1]
            yield last < first, f"{name}'s loss went from {first:.3f} to {last:.3f}"
        else:
            yield False, f"{name} logged no step"
    shared = shared_device(stories)
    yield (
        shared is not None,
        "{} and {} shared {}".format(*shared) if shared else "no two jobs shared a device",
    )
    story = next(story for story in stories if story.job["name"] == greedy)
    halved = f"halved its micro-batch ({', '.join(story.halvings)})" if story.halvings else "was never halved"
    yield bool(story.halvings), f"{greedy} {halved}"
    yield story.kept_effective_batch, f"{greedy} kept its effective batch of {story.job['effective_batch']}"
