"""What attempts took on this machine raises later footprints, of the same configuration above all."""

import json

import pytest

from scheduler.admission.wish import wish_of
from scheduler.controller.corrections import Corrections, quantile, read
from scheduler.controller.footprints import requests_for
from scheduler.footprint.context import context_bytes
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.footprint.request import Target
from scheduler.jobs.jobfile import parse
from scheduler.jobs.spec import JobSpec, encode
from scheduler.jobs.states import EndReason
from scheduler.store import attempts
from scheduler.store.residuals import MeasuredPeak
from scheduler.store.shortages import MemoryRefusal
from tests.controller.bench import Bench
from tests.store.samples import ends, running

MIB = 1 << 20
TARGET = Target(kind="cuda", capability="8.9")
OUTSIDE = context_bytes("cuda", "8.9")


def spec_of(**model: int) -> JobSpec:
    text = f"kind: pretrain\ndata: {{path: rows.jsonl}}\nmodel: {json.dumps(model)}\n"
    return parse(text, file="job.yaml")[0]


def taken(spec: JobSpec, *residuals_mib: int) -> list[MeasuredPeak]:
    return [MeasuredPeak(encode(spec), 1000 * MIB, 1000 * MIB + OUTSIDE + one * MIB) for one in residuals_mib]


def key(spec: JobSpec) -> str:
    return requests_for(spec, wish_of(spec), TARGET)[0].key


def test_the_same_configuration_counts_from_its_first_attempt_on_and_by_its_high_quantile() -> None:
    same = spec_of()
    assert Corrections(taken(same, 30), TARGET).bytes_for(key(same), SOME) == 30 * MIB
    many = Corrections(taken(same, *range(10), 300), TARGET)
    assert many.bytes_for(key(same), SOME) == 9 * MIB  # one outlier among many is none of its business


def test_another_configuration_gets_the_median_of_all_once_there_are_three() -> None:
    other = key(spec_of(num_hidden_layers=4))
    assert Corrections(taken(spec_of(), 30, 40), TARGET).bytes_for(other, SOME) == 0
    assert Corrections(taken(spec_of(), 30, 90, 40), TARGET).bytes_for(other, SOME) == 40 * MIB


def test_nothing_is_lowered_and_what_can_not_be_read_is_no_configuration() -> None:
    assert Corrections(taken(spec_of(), -100), TARGET).bytes_for(key(spec_of()), SOME) == 0
    odd = [MeasuredPeak("{", 1000 * MIB, 1000 * MIB + OUTSIDE + 50 * MIB)] * 3
    assert Corrections(odd, TARGET).bytes_for(key(spec_of()), SOME) == 50 * MIB


def test_a_raised_footprint_holds_more_outside_the_allocator() -> None:
    candidate = Candidate(
        micro_batch=1,
        modes=Modes(),
        allocated_bytes=5,
        reserved_bytes=8,
        process_bytes=10,
        parts={"weights": 5, "cached": 3, "context": 2},
    )
    footprint = Footprint(candidates=(candidate,), parameters=1, torch="2")
    (raised,) = footprint.raised(7).candidates
    assert (raised.allocated_bytes, raised.reserved_bytes, raised.process_bytes) == (5, 8, 17)
    assert sum(raised.parts.values()) == raised.process_bytes
    assert footprint.raised(0) is footprint


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 2), (0.9, 4), (1.0, 4)])
def test_quantiles_are_values_that_were_met(share: float, value: int) -> None:
    assert quantile([3, 1, 4, 2], share) == value


def test_on_no_other_kind_of_device_peaks_correct_anything(bench: Bench) -> None:
    """Though attempts there took more than was predicted, as they did on a GPU."""
    spec, virtual = spec_of(), Target(kind="virtual")
    for target in (virtual, TARGET):
        job_id = bench.submit(spec=encode(spec))
        measured = 1000 * MIB + context_bytes(target.kind, target.capability) + 30 * MIB
        ended = running(bench.db, bench.job(job_id), device=f"{target.kind}:0", predicted_reserved_bytes=1000 * MIB)
        attempts.finish(bench.db, ended.id, ends(EndReason.DONE, exit_code=0, measured_process_bytes=measured), at=9.0)
    assert read(bench.db, "here", TARGET).bytes_for(key(spec), SOME) == 30 * MIB
    of_virtual = requests_for(spec, wish_of(spec), virtual)[0].key
    assert read(bench.db, "here", virtual).bytes_for(of_virtual, SOME) == 0


def test_a_refusal_above_the_prediction_raises_the_footprint_by_what_was_lacking() -> None:
    spec, plan = spec_of(), json.dumps(Modes().as_json())
    candidates = tuple(sized(rows, rows * 100 * MIB) for rows in (1, 2, 4))
    footprint = Footprint(candidates=candidates, parameters=1, torch="2")

    def raised(*lessons: MemoryRefusal) -> int:
        return Corrections([], TARGET, lessons).bytes_for(key(spec), footprint)

    def lesson(micro_batch: int, needed_mib: int, attempt_id: int = 1, spec: str = encode(spec)) -> MemoryRefusal:
        return MemoryRefusal(spec, plan, micro_batch, needed_mib * MIB, attempt_id)

    assert raised(lesson(4, 390)) == 0  # it was given less than was predicted
    assert raised(lesson(4, 430), lesson(2, 210)) == 30 * MIB
    assert raised(lesson(4, 430), lesson(2, 210, attempt_id=2), lesson(1, 90, attempt_id=3)) == 60 * MIB
    assert raised(*(lesson(4, 401, attempt_id) for attempt_id in range(20))) == 16 * MIB
    assert raised(lesson(4, 430, spec=encode(spec_of(num_hidden_layers=4)))) == 0  # of another configuration
    assert raised(lesson(4, 430)._replace(plan="{}"), lesson(4, 430, spec="{")) == 0
    assert raised(lesson(3, 430)) == 0  # nothing was predicted for three rows


def sized(micro_batch: int, process_bytes: int) -> Candidate:
    return Candidate(
        micro_batch=micro_batch, modes=Modes(), allocated_bytes=1, reserved_bytes=1, process_bytes=process_bytes
    )


SOME = Footprint(candidates=(sized(1, MIB),), parameters=1, torch="2")
