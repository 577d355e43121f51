"""Tell a job that waits from one that could never start here, and say what would do. Pure."""

from collections import defaultdict
from collections.abc import Sequence

from scheduler.admission.decisions import Refuse
from scheduler.admission.facts import NOT_TRACED, DeviceView, QueuedJob, Untraced
from scheduler.admission.plan import need_bytes, permits, smallest, wanted_bytes
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint
from scheduler.jobs.means import in_words
from scheduler.jobs.remedies import Place, would_fit
from scheduler.jobs.states import EndReason
from scheduler.units import format_bytes


def deciding(devices: Sequence[DeviceView], gpus: int) -> list[DeviceView]:
    """Return the devices that decide whether a job fits at all: one of each kind and size.

    For a job over several: the smallest of the largest so many of each kind, where there are as many.
    """
    if gpus == 1:
        return list({(one.kind, one.target, one.total_bytes): one for one in devices}.values())
    alike: dict[str, list[DeviceView]] = defaultdict(list)
    for device in sorted(devices, key=lambda device: -device.total_bytes):
        alike[device.target].append(device)
    return [same[gpus - 1] for same in alike.values() if len(same) >= gpus]


def refusal(job: QueuedJob, devices: Sequence[DeviceView]) -> Refuse | None:
    """Return the end of a job that none of the deciding devices could run even when empty; None while there is hope.

    Foreign memory gives hope, it may go; so does a footprint not known yet, and a device that can't be read.
    """
    known = [(device, job.footprints.get(device.target, NOT_TRACED)) for device in devices]
    wrong = [one for _, one in known if isinstance(one, Untraced) and one.hopeless]
    if len(wrong) == len(devices):
        return Refuse(job_id=job.job_id, reason=EndReason.BAD_CONFIGURATION, sentence=wrong[0].sentence)
    traced = [(device, one) for device, one in known if isinstance(one, Footprint) and not one.missing]
    if len(traced) < len(devices) or any(_could_run(job.wish, *place) for place in traced):
        return None
    least = [
        (need_bytes(device.kind, candidate), candidate)
        for device, footprint in traced
        if (candidate := smallest(job.wish, footprint, device.kind)) is not None
    ]
    if not least:
        return _no_plan(job, traced)
    need, candidate = min(least, key=lambda pair: pair[0])
    largest = max(devices, key=lambda device: device.total_bytes)
    where, would_do = "the largest device", f"a device of {format_bytes(need)}"
    if job.gpus > 1:
        where = f"on each of {job.gpus} devices; number {job.gpus} by size"
        would_do = f"{job.gpus} devices of {format_bytes(need)}"
    sentence = (
        f"needs at least {format_bytes(need)}, with {describe(candidate)}; {where}, {largest.label}, "
        f"has {format_bytes(largest.total_bytes)}: {would_do} would do"
    )
    return Refuse(job_id=job.job_id, reason=EndReason.DOES_NOT_FIT, sentence=sentence + _or_host(job.wish))


def describe(candidate: Candidate) -> str:
    """Write a candidate as people read it: "micro-batch 1 and activation checkpointing"."""
    means = in_words(candidate.modes.as_json() | {"chunked_loss": False})  # which costs nothing: nobody chose it
    return f"micro-batch {candidate.micro_batch}" + "".join(f" and {name}" for name in means)


def _could_run(wish: Wish, device: DeviceView, footprint: Footprint) -> bool:
    return wanted_bytes(wish, footprint, device.kind, device.total_bytes) is not None


def _no_plan(job: QueuedJob, traced: Sequence[tuple[DeviceView, Footprint]]) -> Refuse:
    """No candidate is permitted at all: by resources.max_memory, or since the last one ran out of memory too."""
    device, footprint = traced[0]
    open_to_it = [one for one in footprint.candidates if permits(job.wish, one.modes)]
    least = min(open_to_it or footprint.candidates, key=lambda candidate: candidate.process_bytes)
    need = format_bytes(need_bytes(device.kind, least))
    if job.wish.ran_out:
        places = [Place(one.label, one.total_bytes) for one, _ in traced]
        enough = would_fit(need_bytes(device.kind, least), places, max_memory_bytes=job.wish.max_memory_bytes)
        sentence = (
            f"ran out of memory at its smallest plan, {describe(least)}, predicted to need {need} by now; "
            f"nothing that memory: allows would make it smaller; {enough}{_or_host(job.wish)}"
        )
        return Refuse(job_id=job.job_id, reason=EndReason.OUT_OF_MEMORY, sentence=sentence)
    cap = format_bytes(job.wish.max_memory_bytes or 0)
    sentence = f"needs at least {need}, with {describe(least)}; its resources.max_memory is {cap}"
    if job.wish.spares_host:
        sentence += f": a higher one would do{_or_host(job.wish)}"
    return Refuse(job_id=job.job_id, reason=EndReason.DOES_NOT_FIT, sentence=sentence)


def _or_host(wish: Wish) -> str:
    return ", or a host with more memory: with optimizer offload that ran out" if wish.spares_host else ""
