"""mmq itself in the simulation: the decision code of the service, told what it would be told there."""

from collections.abc import Iterator, Mapping

from scheduler.admission import shares
from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit
from scheduler.admission.decisions import Refuse as Refused
from scheduler.admission.decisions import Resize as Resized
from scheduler.admission.facts import DeviceView
from scheduler.admission.policy import PREEMPTIONS_A_JOB, Policy
from scheduler.simulation.knowledge import KIND, TARGET, Known
from scheduler.simulation.moves import Move, Preempt, Refuse, Resize, Seat, Start, View


class Service:
    def __init__(self, policy: Policy = Policy()) -> None:  # noqa: B008  a value
        self._policy = policy
        self._at = 0.0
        self._seen: Mapping[str, float] = {}  # byte-seconds by user, all that there were then
        self._counted: Mapping[str, float] = {}  # and those of them that count

    def moves(self, view: View) -> Iterator[Move]:
        yield from _trimmed(view)
        overuse = self._overuse(view)
        decisions = decide(
            [known.queued(view.now, overuse[known.told.user]) for known in view.queue],
            [
                known.running(view.now, device_id(number))
                for number, seat in enumerate(view.seats)
                for known in seat.residents
            ],
            [_device(number, seat, view.now) for number, seat in enumerate(view.seats)],
            preemptions_left=PREEMPTIONS_A_JOB * view.started - view.preemptions,
            policy=self._policy,
        )
        for decision in decisions:
            match decision:
                case Admit():
                    yield from _admitted(decision)
                case Resized():
                    yield _resized(decision)
                case Refused():
                    yield Refuse(decision.job_id)

    def _overuse(self, view: View) -> dict[str, float]:
        added = {user: total - self._seen.get(user, 0.0) for user, total in view.byte_seconds.items()}
        self._counted = shares.later(self._counted, view.now - self._at, added)
        self._at, self._seen = view.now, dict(view.byte_seconds)
        return shares.overuse(self._counted)


def device_id(number: int) -> str:
    return f"gpu-{number}"


def _trimmed(view: View) -> Iterator[Resize]:
    """A reservation follows what its job was seen to need."""
    for seat in view.seats:
        for known in seat.residents:
            if known.given_bytes != _kept_bytes(known):
                yield Resize(known.job_id, known.micro_batch, _kept_bytes(known))


def _kept_bytes(known: Known) -> int:
    return min(known.given_bytes, known.bytes_at(known.micro_batch)) if known.measured else known.given_bytes


def _device(number: int, seat: Seat, now: float) -> DeviceView:
    claims = tuple(known.claim(now, _kept_bytes(known)) for known in seat.residents)
    return DeviceView(
        device_id=device_id(number),
        label=f"GPU {number}",
        kind=KIND,
        target=TARGET,
        total_bytes=seat.usable_bytes,
        used_bytes=sum(claim.held_bytes for claim in claims),
        claims=claims,
    )


def _admitted(admit: Admit) -> Iterator[Move]:
    """What must happen first happens in the same instant."""
    for job_id in admit.preempts:
        yield Preempt(job_id)
    for shrink in admit.shrinks:
        yield _resized(shrink)
    (device,) = admit.device_ids
    number = int(device.removeprefix("gpu-"))
    yield Start(admit.job_id, number, admit.plan.micro_batch, admit.plan.reserve_bytes)


def _resized(resize: Resized) -> Resize:
    return Resize(resize.job_id, resize.candidate.micro_batch, resize.reserve_bytes)
