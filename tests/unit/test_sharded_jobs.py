"""Jobs whose model is divided among devices: what a file may ask for, in which order it is tried, what it comes to."""

from functools import reduce

import msgspec
import pytest

from scheduler.admission.plan import choose
from scheduler.admission.wish import micro_batches, wish_of
from scheduler.cli.feasibility import least_bytes
from scheduler.controller.footprints import requests_for
from scheduler.controller.paces import Experience
from scheduler.errors import MmqError
from scheduler.footprint.curve import Footprint, Modes
from scheduler.footprint.request import Target
from scheduler.jobs import jobfile, parameters
from scheduler.jobs.spec import JobSpec
from scheduler.jobs.trainer_config import trainer_config
from tests.controller.bench import MIB, answer_of
from trainer.config import Config, parse_config

JOB = "kind: pretrain\ndata: {path: rows.jsonl}\ntrain: {batch_size: 16, accumulation_steps: 1, max_steps: 50000}\n"
TWO, FOUR = ("resources.gpus=2",), ("resources.gpus=4",)
VIRTUAL = Target(kind="virtual")


def spec_of(*overrides: str) -> JobSpec:
    return jobfile.parse(JOB, file="job.yaml", overrides=overrides)[0]


def footprint_of(spec: JobSpec, base_mib: int, row_mib: int) -> Footprint:
    requests = requests_for(spec, wish_of(spec), VIRTUAL)
    stages = [one.footprint(answer_of(one.body, base_mib=base_mib, row_mib=row_mib)) for one in requests]
    return reduce(Footprint.joined, stages)


@pytest.mark.parametrize(
    ("overrides", "field", "told", "remedy"),
    [
        (("memory.sharding=zero2",), "sharding", "zero2 divides what several devices hold", "gpus: 2"),
        ((*TWO, "memory.sharding=zero4"), "sharding", "auto, none, zero2 or zero3", "zero"),
        (
            (*TWO, "memory.sharding=zero3", "memory.tensor_parallel=2"),
            "sharding",
            "all 2 split each product",
            "tensor_parallel: 1",
        ),
        ((*TWO, "memory.sharding=zero3", "train.optimizer=adamw8bit"), "sharding", "adamw8bit", "optimizer: adamw"),
        ((*TWO, "memory.sharding=zero3", "train.compile=true"), "sharding", "train.compile", "compile: false"),
        (
            (*TWO, "memory.tensor_parallel=2", "train.compile=true"),
            "tensor_parallel",
            "train.compile",
            "compile: false",
        ),
        (("memory.tensor_parallel=2",), "tensor_parallel", "resources.gpus is 1", "gpus: 2"),
        ((*FOUR, "memory.tensor_parallel=3"), "tensor_parallel", "resources.gpus is 4", "gpus: 3"),
        ((*TWO, "memory.tensor_parallel=2", "model.use_moe=true"), "tensor_parallel", "experts", "zero3"),
        ((*TWO, "memory.tensor_parallel=2", "train.optimizer=adamw8bit"), "tensor_parallel", "adamw8bit", "adamw"),
        ((*FOUR, "memory.tensor_parallel=4", "model.num_key_value_heads=2"), "tensor_parallel", "2 key-value", "zero3"),
        ((*TWO, "memory.tensor_parallel=2", "model.intermediate_size=99"), "tensor_parallel", "size of 99", "zero3"),
    ],
)
def test_what_the_trainer_cannot_do_is_refused_by_field_with_a_remedy(
    overrides: tuple[str, ...], field: str, told: str, remedy: str
) -> None:
    with pytest.raises(MmqError) as refused:
        spec_of(*overrides)
    error = str(refused.value)
    assert f"memory.{field}" in error
    assert told in error
    assert remedy in (refused.value.hint or "")


def test_what_can_be_divided_is_tried_the_fastest_first_and_offloaded_last() -> None:
    modes = wish_of(spec_of(*TWO)).modes
    assert [one.sharding for one in modes] == ["none"] * 6 + ["zero2"] * 3 + ["zero3"] * 4
    assert modes[-1] == Modes(sharding="zero3", optimizer_offload=True, activation_checkpointing="full")
    assert {one.sharding for one in wish_of(spec_of()).modes} == {"none"}
    assert {one.sharding for one in wish_of(spec_of(*TWO, "train.optimizer=adamw8bit")).modes} == {"none"}
    assert {one.sharding for one in wish_of(spec_of(*TWO, "train.compile=true")).modes} == {"none"}
    assert {one.sharding for one in wish_of(spec_of(*TWO, "memory.sharding=zero2")).modes} == {"zero2"}
    offloaded = wish_of(spec_of(*TWO, "memory.optimizer_offload=on")).modes
    assert len(offloaded) == 9
    assert all(one.optimizer_offload for one in offloaded)


def test_sharding_is_traced_only_after_all_else() -> None:
    spec = spec_of(*TWO)
    stages = [{mode["sharding"] for mode in one.body["modes"]} for one in requests_for(spec, wish_of(spec), VIRTUAL)]
    assert stages == [{"none"}, {"none"}, {"zero2", "zero3"}]
    assert len(requests_for(spec_of(), wish_of(spec_of()), VIRTUAL)) == 2


@pytest.mark.parametrize(("device_mib", "sharding"), [(1200, "none"), (800, "zero2"), (540, "zero3")])
def test_the_least_that_fits_is_divided(device_mib: int, sharding: str) -> None:
    """1,000 MiB for one, 625 with ZeRO-2, 500 with ZeRO-3; checkpointing and offload are not open."""
    spec = spec_of(*TWO, "memory.activation_checkpointing=off", "memory.optimizer_offload=off")
    size = device_mib * MIB
    plan = choose(wish_of(spec), footprint_of(spec, 1000, 10), "virtual", available_bytes=size, usable_bytes=size)
    assert plan is not None
    assert plan.modes.sharding == sharding
    assert plan.accumulation_steps == -(-8 // plan.micro_batch)
    made = trainer_config(
        spec, init_from_path=None, plan={"micro_batch": 4, **plan.modes.as_json()}, device={}, attempt=1
    )
    assert msgspec.convert(made, Config).plan.sharding == sharding


@pytest.mark.parametrize(
    ("device_mib", "sharding", "reserve_mib"),
    [(1200, "none", 1080), (800, "zero2", 705), (600, "zero3", 580), (550, "none", 550)],
)
def test_a_number_goes_with_the_sharding_that_it_fits_with(device_mib: int, sharding: str, reserve_mib: int) -> None:
    """With none at all the trainer halves it, as that of a job on one device."""
    only = ("memory.activation_checkpointing=off", "memory.optimizer_offload=off")
    spec = spec_of(*TWO, *only, "memory.micro_batch=8")
    size = device_mib * MIB
    plan = choose(wish_of(spec), footprint_of(spec, 1000, 10), "virtual", available_bytes=size, usable_bytes=size)
    assert plan is not None
    assert (plan.micro_batch, plan.modes.sharding, plan.reserve_bytes) == (8, sharding, reserve_mib * MIB)


def test_a_number_waits_for_the_trace_of_means_that_it_may_fit_with() -> None:
    spec = spec_of(*TWO, "memory.micro_batch=8")
    wish, size = wish_of(spec), 800 * MIB
    whole = footprint_of(spec, 2000, 100)
    divided = tuple(modes for modes in wish.modes if modes.sharding != "none")
    known = Footprint(
        candidates=tuple(one for one in whole.candidates if one.modes not in divided), parameters=7, torch="2"
    ).without(divided)
    assert choose(wish, known, "virtual", available_bytes=size, usable_bytes=size) is None


def test_sharding_goes_with_the_other_means_and_offload_comes_last() -> None:
    spec = spec_of(*TWO)
    found = {
        size: choose(
            wish_of(spec), footprint_of(spec, 1000, 100), "virtual", available_bytes=size * MIB, usable_bytes=size * MIB
        )
        for size in (2000, 1500, 700, 300)
    }
    told = {size: plan and (plan.modes.sharding, plan.modes.optimizer_offload) for size, plan in found.items()}
    assert told == {2000: ("none", False), 1500: ("zero2", False), 700: ("zero3", False), 300: ("zero3", True)}


def test_a_group_that_splits_products_has_rows_together() -> None:
    spec = spec_of(*FOUR, "memory.tensor_parallel=2")
    wish = wish_of(spec)
    assert (wish.shares, wish.rows, {one.tensor_parallel for one in wish.modes}) == (2, 8, {2})
    assert requests_for(spec, wish, VIRTUAL)[0].body["micro_batches"] == micro_batches(8)
    plan = Modes(sharding="zero3", tensor_parallel=2).as_json() | {"micro_batch": 4}
    config = parse_config(trainer_config(spec, init_from_path=None, plan=plan, device={}, attempt=1))
    assert (config.plan.sharding, config.plan.tensor_parallel) == ("zero3", 2)


@pytest.mark.parametrize(
    ("overrides", "bytes_a_weight"),
    [
        ((), 16),
        (FOUR, 4),
        ((*FOUR, "memory.sharding=zero2"), 7),
        ((*FOUR, "memory.sharding=none"), 16),
        ((*FOUR, "memory.sharding=none", "memory.tensor_parallel=2"), 8),
        ((*FOUR, "train.optimizer=adamw8bit"), 10),
    ],
)
def test_the_least_of_each_device_is_its_part(overrides: tuple[str, ...], bytes_a_weight: int) -> None:
    spec = spec_of(*overrides, "memory.optimizer_offload=off")
    assert least_bytes(spec) == parameters.count(spec.model) * bytes_a_weight


def test_twice_the_devices_take_half_the_time() -> None:
    nothing_known = Experience([])
    alone, together = (nothing_known.estimate(spec_of(*gpus), "cuda", None) for gpus in ((), FOUR))
    assert together.seconds == pytest.approx(alone.seconds / 4, rel=1e-3)
    assert (alone.micro_batch, together.micro_batch) == (16, 4)
