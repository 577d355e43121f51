"""Watches how fast jobs go alone and in pairs, and keeps those apart that were slower together than by turns.

A measurement is of at least half a minute in which nothing else changed: the same jobs, all of them taking steps with
the same micro-batch, nobody foreign beside them. It is told again whenever it has become twice as long. Of three and
more together nothing is concluded, nor of jobs over several devices.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from scheduler.admission.colocation import ALONE, Apart, StepTime
from scheduler.admission.facts import DeviceView
from scheduler.admission.wish import Wish
from scheduler.controller.footprints import requests_for
from scheduler.controller.inventory import Inventory, target_of
from scheduler.controller.residents import Resident, is_shared_with_others
from scheduler.devices.device import DeviceInfo
from scheduler.jobs.spec import JobSpec

LEAST_SECONDS = 30.0
CLOCK_SET_SECONDS = 1.0  # further than that, a clock has not drifted but was set
LEAST_CHANGES = 3  # of the step that an attempt has told
_KEY_CHARACTERS = 24


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """An attempt that takes steps, as it was last heard of."""

    attempt_id: int
    configuration: str
    micro_batch: int
    step: int
    at: float


@dataclass
class _Window:
    """A time in which nothing changed. It begins with a step that was told, not with the first look."""

    first: StepReport
    last: StepReport
    changes: int = -1
    reported_seconds: float = 0.0

    def note(self, now: StepReport) -> None:
        if now.step > self.last.step:
            self.changes += 1
            self.last = now
            if self.changes == 0:
                self.first = now

    def measured(self) -> float | None:
        """Return the seconds a step took, if that is worth telling."""
        seconds = self.last.at - self.first.at
        if self.changes < LEAST_CHANGES or seconds < max(LEAST_SECONDS, 2 * self.reported_seconds):
            return None
        self.reported_seconds = seconds
        return seconds / (self.last.step - self.first.step)


@dataclass
class Watch:
    """What was seen since when; in memory alone, for a measurement that is broken off costs half a minute."""

    _windows: dict[tuple[str, tuple[tuple[int, int], ...]], list[_Window]] = field(default_factory=dict)
    _reported: set[tuple[int, int]] = field(default_factory=set)
    _clock_ahead_seconds: float = 0.0

    def look(self, reports: Mapping[str, Sequence[StepReport]], *, clock_ahead_seconds: float = 0.0) -> list[StepTime]:
        """Take in who goes on each device that can be watched, and return what that adds up to.

        `clock_ahead_seconds`: of the clock by which attempts are heard of, ahead of one that is never set.
        """
        if abs(clock_ahead_seconds - self._clock_ahead_seconds) > CLOCK_SET_SECONDS:
            self._windows = {}
        self._clock_ahead_seconds = clock_ahead_seconds
        windows = {}
        for device_id, here in reports.items():
            same = device_id, tuple((one.attempt_id, one.micro_batch) for one in here)
            windows[same] = self._windows.get(same) or [_Window(one, one) for one in here]
            for window, one in zip(windows[same], here, strict=True):
                window.note(one)
        self._windows = windows
        return [one for windows_here in windows.values() for one in _measured(windows_here)]

    def slower(self, reports: Mapping[str, Sequence[StepReport]], apart: Apart) -> list[tuple[int, int, float]]:
        """Return the pairs of attempts, once each, that are found to do worse than by turns, and what they reach."""
        pairs = {
            (a.attempt_id, b.attempt_id): apart[a.configuration][b.configuration]
            for here in reports.values()
            for a, b in permutations(here, 2)
            if b.configuration in apart.get(a.configuration, {})
        }
        new = [(*pair, reached) for pair, reached in pairs.items() if pair not in self._reported]
        self._reported = set(pairs)
        return new


def _measured(windows: list[_Window]) -> Iterator[StepTime]:
    for number, window in enumerate(windows):
        seconds = window.measured()
        if seconds is not None:
            beside = [other.last.configuration for other in windows[:number] + windows[number + 1 :]]
            yield StepTime(
                configuration=window.last.configuration,
                seconds_per_step=seconds,
                beside=beside[0] if beside else ALONE,
            )


def step_reports(
    residents: Iterable[Resident], devices: Iterable[DeviceView], inventory: Inventory
) -> dict[str, list[StepReport]]:
    """Return by device who takes steps there, of devices on which that is one or two, and all there is."""
    by_device: dict[str, list[Resident]] = defaultdict(list)
    for resident in residents:
        for device_id in resident.device_ids:
            by_device[device_id].append(resident)
    return {
        device.device_id: [_step_report(one, inventory.info(device.device_id)) for one in here]
        for device in devices
        if 0 < len(here := by_device[device.device_id]) == len(device.claims) <= 2
        and all(one.begun() and not one.attempt.resizing and len(one.device_ids) == 1 for one in here)
        and not is_shared_with_others(device)
    }


def _step_report(resident: Resident, info: DeviceInfo) -> StepReport:
    attempt = resident.attempt
    return StepReport(
        attempt_id=attempt.id,
        configuration=configuration(resident.spec, resident.wish, info),
        micro_batch=attempt.micro_batch,
        step=attempt.step or 0,
        at=attempt.heartbeat_at or 0.0,
    )


def configuration(spec: JobSpec, wish: Wish, info: DeviceInfo) -> str:
    """Name what makes jobs go alike: all that their memory depends on, and the device's name."""
    return f"{requests_for(spec, wish, target_of(info))[0].key[:_KEY_CHARACTERS]} {info.name}"


def kept_apart(
    apart: Apart, queued: Collection[tuple[int, JobSpec, Wish]], residents: Collection[Resident], inventory: Inventory
) -> dict[int, Mapping[int, float]]:
    """Return for each queued job those that it is not to start beside, running or queued, and what both would reach."""
    models = {info.name: info for info in inventory.infos}.values()
    by_id = {info.id: info for info in inventory.infos}
    kinds = {job_id: frozenset(configuration(spec, wish, info) for info in models) for job_id, spec, wish in queued}
    members: dict[str, list[int]] = defaultdict(list)
    for job_id, names in kinds.items():
        for name in names:
            members[name].append(job_id)
    for one in residents:
        for device_id in one.device_ids:
            if device_id in by_id:
                members[configuration(one.spec, one.wish, by_id[device_id])].append(one.job.id)
    found = {names: _reached(apart, names, members) for names in set(kinds.values())}
    return {job_id: found[names] for job_id, names in kinds.items() if found[names]}


def _reached(apart: Apart, names: Iterable[str], members: Mapping[str, Sequence[int]]) -> dict[int, float]:
    return {
        job_id: reached
        for name in names
        for other, reached in apart.get(name, {}).items()
        for job_id in members.get(other, ())
    }
