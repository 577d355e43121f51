"""The running jobs as the decision takes them: how each runs, what it could be asked, how long it still takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from scheduler.admission.facts import DeviceView, RunningJob
from scheduler.admission.pace import START_SECONDS, Pace
from scheduler.admission.plan import allowed
from scheduler.admission.wish import Wish, wish_of
from scheduler.controller import paces
from scheduler.controller.footprints import FootprintBook
from scheduler.controller.inventory import Inventory, target_of
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.jobs.spec import JobSpec
from scheduler.jobs.states import AttemptState
from scheduler.store.records import Attempt, Job

LEAVING_SECONDS = 10.0  # that a job takes to save and go
UNHEEDED_SECONDS = 60.0  # after which a job that does not answer a resize is asked no more


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A live attempt of this host, and all that is known of its job."""

    attempt: Attempt
    job: Job
    spec: JobSpec
    device_ids: tuple[str, ...]
    footprint: Footprint | None  # on its first device

    @property
    def modes(self) -> Modes:
        return Modes.from_json(msgspec.json.decode(self.attempt.plan))

    @property
    def wish(self) -> Wish:
        return wish_of(self.spec, micro_batch_limit=self.job.micro_batch_limit)

    def begun(self) -> bool:
        """Whether it takes steps, and is to go on taking them."""
        attempt = self.attempt
        return attempt.state is AttemptState.RUNNING and bool(attempt.step) and not self.leaves()

    def leaves(self) -> bool:
        """Whether it was asked to end: its memory will soon be there."""
        return self.attempt.stop_requested_at is not None or self.job.cancel_requested_at is not None

    def answers(self, now: float) -> bool:
        """Whether it may be asked for another micro-batch: it heeds its control file, and its file names none."""
        attempt = self.attempt
        late = attempt.resizing and now - (attempt.wanted_at or now) > UNHEEDED_SECONDS
        return self.begun() and not late and not self.wish.insists

    def candidate(self) -> Candidate:
        """Return how it runs now: a candidate of its footprint, else what was predicted of it."""
        attempt = self.attempt
        found = [one for one in self._same_modes() if one.micro_batch >= attempt.micro_batch]
        if found:
            return replace(min(found, key=lambda one: one.micro_batch), micro_batch=attempt.micro_batch)
        size = attempt.predicted_process_bytes or attempt.reserved_bytes
        return Candidate(
            micro_batch=attempt.micro_batch,
            modes=self.modes,
            allocated_bytes=attempt.predicted_allocated_bytes or size,
            reserved_bytes=attempt.predicted_reserved_bytes or size,
            process_bytes=size,
        )

    def ladder(self, kind: str) -> tuple[Candidate, ...]:
        """Return what it could change to: other micro-batches with the same means."""
        if self.footprint is None:
            return ()
        permitted = set(allowed(self.wish, self.footprint, kind))
        return tuple(one for one in self._same_modes() if one in permitted)

    def _same_modes(self) -> list[Candidate]:
        candidates = () if self.footprint is None else self.footprint.candidates
        modes = self.modes
        return sorted((one for one in candidates if one.modes == modes), key=lambda one: one.micro_batch)


def running_jobs(
    residents: Iterable[Resident],
    devices: Mapping[str, DeviceView],
    experience: paces.Experience,
    inventory: Inventory,
    *,
    now: float,
) -> tuple[RunningJob, ...]:
    """Put together what the decision may know of them."""
    known = [one for one in residents if all(device_id in devices for device_id in one.device_ids) and one.device_ids]
    busy = paces.busy_by_device((one.attempt, one.device_ids) for one in known)
    return tuple(_running(one, devices, busy, experience, inventory, now) for one in known)


def _running(
    resident: Resident,
    devices: Mapping[str, DeviceView],
    busy: Mapping[str, Mapping[int, float]],
    experience: paces.Experience,
    inventory: Inventory,
    now: float,
) -> RunningJob:
    attempt, first = resident.attempt, devices[resident.device_ids[0]]
    others = [share for attempt_id, share in busy[first.device_id].items() if attempt_id != attempt.id]
    pace = paces.of_running(
        attempt,
        resident.spec,
        experience.estimate(resident.spec, first.kind, None),
        others,
        _told_alone(first, attempt, inventory),
    )
    if resident.leaves():
        pace = Pace(seconds=LEAVING_SECONDS, utilisation=pace.utilisation, micro_batch=attempt.micro_batch)
    own = resident.candidate()
    ladder = tuple(one for one in resident.ladder(first.kind) if one.micro_batch != own.micro_batch)
    return RunningJob(
        job_id=attempt.job_id,
        device_ids=resident.device_ids,
        candidate=own,
        ladder=tuple(sorted((own, *ladder), key=_rows)) if resident.answers(now) else (own,),
        pace=pace,
        priority=resident.job.priority,
        starts_in_seconds=0.0 if attempt.step else _starts_in(now - attempt.admitted_at),
        preemptible=resident.begun(),
    )


def _starts_in(since_admission: float) -> float:
    return min(START_SECONDS, max(1.0, START_SECONDS - since_admission))  # a clock that was set back: just admitted


def _rows(candidate: Candidate) -> int:
    return candidate.micro_batch


def _told_alone(device: DeviceView, attempt: Attempt, inventory: Inventory) -> float | None:
    """Return how busy the device says it is, where all of that is this attempt's."""
    reading = inventory.readings.get(device.device_id)
    if reading is None or reading.utilisation is None or not attempt.step or len(device.claims) > 1:
        return None
    return None if is_shared_with_others(device) else reading.utilisation


def is_shared_with_others(device: DeviceView) -> bool:
    """Whether processes that are not mmq's hold so much of it that they may well compute there."""
    return device.used_bytes - sum(claim.held_bytes for claim in device.claims) > _HARDLY_ANY_BYTES


_HARDLY_ANY_BYTES = 64 * 1024**2


def known_footprint(
    book: FootprintBook, spec: JobSpec, wish: Wish, device_ids: Iterable[str], inventory: Inventory
) -> Footprint | None:
    """Look a running job's footprint up, and ask nobody for it."""
    there = {info.id: info for info in inventory.infos}
    first = next((there[one] for one in device_ids if one in there), None)
    return None if first is None else book.known(spec, wish, target_of(first))
