"""Which plan a job gets for which amount of memory."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.admission.plan import FLAT, choose, margin_bytes, need_bytes, speed, wanted_bytes
from scheduler.admission.wish import RanOut, Wish, micro_batches
from scheduler.footprint.curve import Candidate, Footprint, Modes

MIB = 1024**2
PLAIN, CHECKPOINTED = Modes(), Modes(activation_checkpointing="full")
OFFLOADED, BOTH = Modes(optimizer_offload=True), Modes(activation_checkpointing="full", optimizer_offload=True)
ALL = (PLAIN, CHECKPOINTED, OFFLOADED, BOTH)


def footprint_of(
    effective_batch: int, *, base_mib: int = 100, row_mib: int = 10, number: int | None = None
) -> Footprint:
    """Weights and optimizer `base_mib`, activations `row_mib` a row: halved by checkpointing, base by offload."""
    candidates = []
    for modes, size in product(ALL, micro_batches(effective_batch, number)):
        base = base_mib // (2 if modes.optimizer_offload else 1)
        rows = size * row_mib // (1 if modes.activation_checkpointing == "off" else 2)
        peak = (base + rows) * MIB
        candidates.append(
            Candidate(micro_batch=size, modes=modes, allocated_bytes=peak, reserved_bytes=peak, process_bytes=peak)
        )
    return Footprint(candidates=tuple(candidates), parameters=1, torch="2")


def plan_for(wish: Wish, footprint: Footprint, available_mib: int, usable_mib: int | None = None):
    usable = (available_mib if usable_mib is None else usable_mib) * MIB
    return choose(wish, footprint, "virtual", available_bytes=available_mib * MIB, usable_bytes=usable)


WISH = Wish(effective_batch=64, max_seq_len=512, modes=ALL)


def test_takes_the_knee_and_not_the_largest_that_fits() -> None:
    plan = plan_for(WISH, footprint_of(64), 100_000)
    assert plan is not None
    # At 512 tokens a row, 32 rows are within 5 % of 64; 16 are not.
    assert (plan.micro_batch, plan.accumulation_steps, plan.modes) == (32, 2, PLAIN)
    assert plan.reserve_bytes == (100 + 320) * MIB


def test_short_rows_need_a_larger_micro_batch() -> None:
    plan = plan_for(replace(WISH, max_seq_len=32), footprint_of(64), 100_000)
    assert plan is not None
    assert plan.micro_batch == 64


def test_smaller_memory_means_a_smaller_micro_batch_and_the_same_effective_batch() -> None:
    plan = plan_for(WISH, footprint_of(64), 190)
    assert plan is not None
    assert (plan.micro_batch, plan.accumulation_steps) == (8, 8)


def test_memory_means_come_in_when_nothing_else_fits() -> None:
    plan = plan_for(WISH, footprint_of(64, row_mib=100), 160)
    assert plan is not None
    assert plan.modes.activation_checkpointing == "full"
    assert plan_for(replace(WISH, modes=(PLAIN,)), footprint_of(64, row_mib=100), 160) is None


def test_a_plan_is_only_taken_if_nothing_untraced_could_be_faster() -> None:
    """Plain at micro-batch 1 fits; checkpointed at 64 might too, and would be faster."""
    whole = footprint_of(64)
    plain = Footprint(candidates=tuple(one for one in whole.candidates if one.modes == PLAIN), parameters=1, torch="2")
    assert plan_for(WISH, plain, 115) is not None
    assert plan_for(WISH, plain.without((CHECKPOINTED,)), 115) is None
    assert plan_for(WISH, plain.without((CHECKPOINTED,)), 100_000) is not None
    assert plan_for(WISH, plain.joined(whole), 100_000) is not None


def test_max_memory_caps_the_plan_and_the_reservation() -> None:
    plan = plan_for(replace(WISH, max_memory_bytes=150 * MIB), footprint_of(64), 100_000)
    assert plan is not None
    assert plan.reserve_bytes <= 150 * MIB


def test_an_earlier_out_of_memory_limits_the_micro_batch() -> None:
    plan = plan_for(replace(WISH, micro_batch_limit=4), footprint_of(64), 100_000)
    assert plan is not None
    assert plan.micro_batch == 4


def test_after_an_out_of_memory_at_micro_batch_1_only_less_memory_will_do() -> None:
    wish = replace(WISH, micro_batch_limit=1, ran_out=(RanOut(micro_batch=1, modes=PLAIN),))
    plan = plan_for(wish, footprint_of(64), 100_000)
    assert plan is not None
    assert plan.modes == CHECKPOINTED
    both = RanOut(micro_batch=1, modes=BOTH)
    assert plan_for(replace(wish, ran_out=(*wish.ran_out, both)), footprint_of(64), 100_000) is None
    assert plan_for(replace(wish, ran_out=(both, *wish.ran_out)), footprint_of(64), 100_000) is None


def test_after_the_states_alone_were_too_much_only_offload_will_do_at_any_micro_batch() -> None:
    failed = RanOut(micro_batch=8, modes=PLAIN, of_states=True)
    plan = plan_for(replace(WISH, ran_out=(failed,)), footprint_of(64), 100_000)
    assert plan is not None
    assert plan.modes.optimizer_offload
    assert plan.micro_batch > 1
    held = replace(WISH, modes=(PLAIN, CHECKPOINTED), ran_out=(failed,))
    assert plan_for(held, footprint_of(64), 100_000) is not None  # with more memory, where it may not offload


def test_a_host_that_ran_out_is_spared() -> None:
    """With the optimizer in host memory it would fit; it waits for the room that it takes without."""
    wish, tight = WISH, footprint_of(64, base_mib=1000)
    offloaded = plan_for(wish, tight, 900)
    assert offloaded is not None
    assert offloaded.modes.optimizer_offload
    assert plan_for(replace(wish, spares_host=True), tight, 900) is None
    roomy = plan_for(replace(wish, spares_host=True), tight, 2000)
    assert roomy is not None
    assert not roomy.modes.optimizer_offload


def test_an_insisted_number_is_tried_as_it_is_on_the_whole_device() -> None:
    wish = replace(WISH, micro_batch=64)
    too_large = plan_for(wish, footprint_of(64, row_mib=100), 2_000)
    assert too_large is not None
    assert (too_large.micro_batch, too_large.accumulation_steps) == (64, 1)
    assert too_large.modes == PLAIN
    assert too_large.reserve_bytes == 2_000 * MIB
    assert plan_for(wish, footprint_of(64, row_mib=100), 1_999, usable_mib=2_000) is None  # waits for all of it
    fits = plan_for(wish, footprint_of(64), 2_000)
    assert fits is not None
    assert fits.reserve_bytes == 740 * MIB


def test_an_insisted_number_gives_way_once_an_attempt_ran_out() -> None:
    plan = plan_for(replace(WISH, micro_batch=64, micro_batch_limit=32), footprint_of(64), 300)
    assert plan is not None
    assert plan.micro_batch == 16


def test_an_insisted_number_does_not_start_where_not_even_the_smallest_plan_fits() -> None:
    assert plan_for(replace(WISH, micro_batch=64), footprint_of(64, base_mib=1000), 500) is None


def test_an_insisted_number_that_divides_nothing_is_known() -> None:
    plan = plan_for(replace(WISH, micro_batch=7), footprint_of(64, number=7), 100_000)
    assert plan is not None
    assert (plan.micro_batch, plan.accumulation_steps) == (7, 10)


@pytest.mark.parametrize(("kind", "added"), [("virtual", 0), ("cuda", 200), ("cpu", 1500)])
def test_margin(kind: str, added: int) -> None:
    assert margin_bytes(kind, 10_000 * MIB) == added * MIB
    assert margin_bytes("cuda", 100 * MIB) == 64 * MIB


def test_micro_batches_are_divisors_and_halvings() -> None:
    assert micro_batches(12) == [1, 2, 3, 4, 6, 12]
    assert micro_batches(7) == [1, 2, 4, 7]
    assert micro_batches(64, 24) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64]
    assert micro_batches(4, 100) == [1, 2, 4]
    assert len(micro_batches(720_720)) < 70


@given(
    effective=st.integers(1, 300),
    row_mib=st.integers(1, 50),
    base_mib=st.integers(2, 500),
    available_mib=st.integers(0, 4000),
    usable_more=st.integers(0, 2000),
    number=st.none() | st.integers(1, 300),
    cap_mib=st.none() | st.integers(1, 4000),
    limit=st.none() | st.integers(1, 300),
    kind=st.sampled_from(["virtual", "cuda"]),
)
def test_a_plan_fits_is_permitted_and_keeps_the_effective_batch(
    effective, row_mib, base_mib, available_mib, usable_more, number, cap_mib, limit, kind
) -> None:
    footprint = footprint_of(effective, base_mib=base_mib, row_mib=row_mib, number=number)
    wish = Wish(
        effective_batch=effective,
        max_seq_len=128,
        micro_batch=number,
        modes=ALL,
        max_memory_bytes=None if cap_mib is None else cap_mib * MIB,
        micro_batch_limit=limit,
    )
    usable = (available_mib + usable_more) * MIB
    plan = choose(wish, footprint, kind, available_bytes=available_mib * MIB, usable_bytes=usable)
    wanted = wanted_bytes(wish, footprint, kind, usable)
    assert (plan is not None) == (wanted is not None and wanted <= available_mib * MIB)
    if plan is None:
        return
    assert plan.reserve_bytes <= available_mib * MIB
    assert cap_mib is None or plan.reserve_bytes <= cap_mib * MIB
    assert (plan.accumulation_steps - 1) * plan.micro_batch < effective <= plan.accumulation_steps * plan.micro_batch
    assert limit is None or plan.micro_batch <= limit
    if not wish.insists:
        assert plan.reserve_bytes == need_bytes(kind, plan.candidate)
        for other in footprint.candidates:  # nothing that fits is more than 5 % faster
            fits = need_bytes(kind, other) <= min(available_mib, cap_mib or available_mib) * MIB
            if fits and (limit is None or other.micro_batch <= limit):
                assert plan.speed >= FLAT * speed(other.modes, other.micro_batch, effective, 128)
