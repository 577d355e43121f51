"""What settles a job before memory is looked at: cancelled, damaged, dependencies, too few devices. Pure."""

from collections import Counter
from collections.abc import Sequence

from scheduler.admission.decisions import Refuse, Wait
from scheduler.admission.facts import DeviceView, QueuedJob
from scheduler.jobs.states import EndReason, JobState, WaitCode


def gate(job: QueuedJob) -> Wait | Refuse | None:
    """Return why this job can't be considered now, whatever the devices; None where they decide."""
    if job.cancel_requested:
        return Wait(job_id=job.job_id, code=WaitCode.CANCELLING, sentence="is being cancelled")
    if job.problem is not None:
        return Wait(job_id=job.job_id, code=WaitCode.ERROR, sentence=job.problem)
    return _dependencies(job) if job.dependencies else None


def _dependencies(job: QueuedJob) -> Wait | Refuse | None:
    for dependency in job.dependencies:
        if dependency.state in (JobState.FAILED, JobState.CANCELLED):
            return Refuse(
                job_id=job.job_id,
                reason=EndReason.DEPENDENCY_FAILED,
                sentence=f"comes after job {dependency.job_id}, which has {_ended(dependency.state)}",
            )
    waits = [one for one in job.dependencies if one.state is not JobState.SUCCEEDED]
    if not waits:
        return None
    named = ", ".join(f"job {one.job_id} ({one.state})" for one in waits[:4])
    more = f" and {len(waits) - 4} more" if len(waits) > 4 else ""
    return Wait(job_id=job.job_id, code=WaitCode.DEPENDENCY, sentence=f"comes after {named}{more}")


def _ended(state: JobState) -> str:
    return "failed" if state is JobState.FAILED else "been cancelled"


def named(devices: Sequence[DeviceView], ids: frozenset[str] | None) -> Sequence[DeviceView]:
    """Return those that a job names; all, where it names none."""
    return devices if ids is None else [device for device in devices if device.device_id in ids]


def devices_for(job: QueuedJob, devices: Sequence[DeviceView]) -> Wait | Refuse | None:
    """Return why there are not enough devices for this job; None where there are."""
    if job.devices is not None and len(devices) < job.gpus:
        sentence = f"{len(devices) or 'none'} of the devices that it names {'is' if len(devices) < 2 else 'are'} here"
        return Wait(job_id=job.job_id, code=WaitCode.NO_DEVICE, sentence=sentence)
    if not devices:
        return Wait(job_id=job.job_id, code=WaitCode.NO_DEVICE, sentence="there is no device; `mmq doctor` says why")
    if job.gpus == 1:
        return None
    if job.gpus > len(devices):
        have = "there is only 1" if len(devices) == 1 else f"there are only {len(devices)}"
        return Refuse(
            job_id=job.job_id,
            reason=EndReason.DOES_NOT_FIT,
            sentence=f"asks for {job.gpus} GPUs, but {have} here",
        )
    most = max(Counter(device.target for device in devices).values())
    if job.gpus > most:
        return Refuse(
            job_id=job.job_id,
            reason=EndReason.DOES_NOT_FIT,
            sentence=f"asks for {job.gpus} GPUs of one kind, but there are at most {most} of any kind here",
        )
    return None
