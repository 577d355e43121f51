"""The promise that lets a scheduler choose freely: how an effective batch is split cannot be seen in the result."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.conftest import assert_resumes_bit_for_bit, assert_same_curve
from trainer.memory.cpu import CpuDevice

runs = itertools.count()


class RefusingDevice(CpuDevice):
    """Refuses these of the copies that are made to it, counted from 1."""

    def __init__(self, at_copies: list[int]) -> None:
        super().__init__(None)
        self.at_copies = at_copies
        self.copies = 0

    def to_device(self, tensor):
        self.copies += 1
        if self.copies in self.at_copies:
            raise torch.OutOfMemoryError("refused")
        return super().to_device(tensor)


@pytest.fixture(scope="module")
def expected(shared_workshop):
    return {
        kind: shared_workshop.train(f"whole-{kind}", shared_workshop.config(kind)).losses()
        for kind in ("pretrain", "sft")
    }


@settings(max_examples=12, deadline=None)
@given(
    micro_batch=st.integers(1, 8),
    kind=st.sampled_from(["pretrain", "sft"]),
    checkpointing=st.sampled_from(["off", "selective", "full"]),
    chunked=st.booleans(),
    offload=st.booleans(),
    packing=st.booleans(),
)
def test_any_plan_gives_the_same_curve(
    shared_workshop, expected, micro_batch, kind, checkpointing, chunked, offload, packing
) -> None:
    plan = {
        "micro_batch": micro_batch,
        "activation_checkpointing": checkpointing,
        "chunked_loss": chunked,
        "optimizer_offload": offload,
    }
    outcome = shared_workshop.train(
        f"run-{next(runs)}", shared_workshop.config(kind, plan=plan, train={"packing": packing})
    )
    assert_same_curve(outcome.losses(), expected[kind])


EXPERTS = {"use_moe": True, "router_aux_loss_coef": 0.1}
TWO_AND_SHARED = EXPERTS | {"num_experts_per_tok": 2, "num_shared_experts": 1, "qk_norm": False}


@pytest.mark.parametrize("model", [EXPERTS, TWO_AND_SHARED], ids=["top-1", "top-2 and shared"])
def test_any_plan_gives_the_same_curve_with_experts(shared_workshop, model) -> None:
    """The balancing loss too: at a weight that would show, and with rows of many lengths."""
    whole = shared_workshop.train(f"run-{next(runs)}", shared_workshop.config(model=model)).losses()
    for micro_batch in (1, 3):
        plan = {"micro_batch": micro_batch, "activation_checkpointing": micro_batch == 3}
        config = shared_workshop.config(model=model, plan=plan, train={"packing": micro_batch == 3})
        outcome = shared_workshop.train(f"run-{next(runs)}", config)
        assert_same_curve(outcome.losses(), whole)
    unbalanced = shared_workshop.config(model=model | {"router_aux_loss_coef": 0.0})
    assert shared_workshop.train(f"run-{next(runs)}", unbalanced).losses()[8] != whole[8]


@settings(max_examples=8, deadline=None)
@given(refusals=st.lists(st.integers(1, 24), min_size=1, max_size=3, unique=True))
def test_a_micro_batch_that_halves_at_any_moment_gives_the_same_curve(shared_workshop, expected, refusals) -> None:
    config = shared_workshop.config()
    outcome = shared_workshop.train(f"run-{next(runs)}", config, RefusingDevice(refusals))
    events = outcome.events("out_of_memory")
    assert events
    assert [event["new_micro_batch"] for event in events] == [4, 2, 1][: len(events)]
    assert_same_curve(outcome.losses(), expected["pretrain"])


def test_a_run_is_determined_by_configuration_and_seed(workshop) -> None:
    first, second = (workshop.train(name, workshop.config()).losses() for name in ("a", "b"))
    other = workshop.train("c", workshop.config(train={"seed": 43})).losses()
    assert first == second
    assert first != other


def test_the_last_step_of_an_epoch_count_has_the_rows_that_are_left(workshop) -> None:
    train = {"max_steps": None, "epochs": 1, "batch_size": 12}
    whole, split = (
        workshop.train(name, workshop.config(train=train, plan={"micro_batch": size}))
        for name, size in (("whole", 12), ("split", 5))
    )
    assert list(whole.losses()) == [1, 2, 3, 4]  # 40 rows: 12 + 12 + 12 + 4
    assert_same_curve(split.losses(), whole.losses())


def test_experts_resumed_are_the_undisturbed_run_bit_for_bit(workshop) -> None:
    config = workshop.config(model=TWO_AND_SHARED)
    assert_resumes_bit_for_bit(workshop, config)
