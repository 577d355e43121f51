"""What is to be run in a simulation: jobs as JSON lines, and the truth about each, by the model of time below.

With k its overhead and m the micro-batch that its user set, a job alone at micro-batch b

    takes       alone_seconds x (1 + k/b) / (1 + k/m)
    computes    alone_seconds x utilisation x (1 + 0.5 k/b) / (1 + 0.5 k/m) of them, and no more than all
    needs       fixed_bytes + b x bytes_per_sample
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from scheduler.errors import UsageError

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
Natural = Annotated[int, Meta(ge=0)]
Counted = Annotated[int, Meta(ge=1)]

_UNNUMBERED = -1
_BUSY = 0.5  # of a micro-step's fixed part, the device computes in so much


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a workload. Only the simulated world may read it whole; see `knowledge.py` for who may know what."""

    job_id: int = msgspec.field(name="id", default=_UNNUMBERED)  # where it has none, the number of its line
    submit_seconds: Annotated[float, Meta(ge=0)]
    user: Annotated[str, Meta(min_length=1)]
    priority: int
    alone_seconds: Positive
    utilisation: Share
    overhead: Annotated[float, Meta(ge=0)]
    user_micro_batch: Counted
    effective_batch: Counted
    fixed_bytes: Natural
    bytes_per_sample: Natural
    declared_bytes: Natural
    estimate_seconds: Positive

    def seconds_at(self, micro_batch: int) -> float:
        """Return how long it takes alone on a device."""
        return self.alone_seconds * self._relative(micro_batch, 1.0)

    def busy_seconds_at(self, micro_batch: int) -> float:
        """Return for how long it then keeps the device computing."""
        computing = self.alone_seconds * self.utilisation * self._relative(micro_batch, _BUSY)
        return min(computing, self.seconds_at(micro_batch))

    def utilisation_at(self, micro_batch: int) -> float:
        return self.busy_seconds_at(micro_batch) / self.seconds_at(micro_batch)

    def bytes_at(self, micro_batch: int) -> int:
        return self.fixed_bytes + micro_batch * self.bytes_per_sample

    def _relative(self, micro_batch: int, share: float) -> float:
        fixed = share * self.overhead
        return (1 + fixed / micro_batch) / (1 + fixed / self.user_micro_batch)


def read(path: Path) -> list[Job]:
    """Read a workload, in the order of submission; UsageError names the line and the field that is wrong."""
    decoder = msgspec.json.Decoder(Job)
    jobs: dict[int, Job] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                job = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise _wrong(path, number, str(error)) from None
            job_id = number if job.job_id == _UNNUMBERED else job.job_id
            if job_id in jobs:
                raise _wrong(path, number, f"the id {job_id} stands on an earlier line too")
            jobs[job_id] = msgspec.structs.replace(job, job_id=job_id)
    if not jobs:
        raise UsageError(f"{path}: there is no job in it", hint="docs/simulation.md says what a workload is")
    return in_order(jobs.values())


def write(jobs: Iterable[Job], path: Path) -> None:
    """Write a workload as `read` reads it."""
    path.write_bytes(b"".join(msgspec.json.encode(job) + b"\n" for job in jobs))


def in_order(jobs: Iterable[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: (job.submit_seconds, job.job_id))


def _wrong(path: Path, number: int, what: str) -> UsageError:
    return UsageError(f"{path}, line {number}: {what}", hint="docs/simulation.md says what each field means")
