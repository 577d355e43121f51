"""What is asked of the tracer, and when two jobs share an answer."""

from typing import Any

import pytest

from scheduler.admission.wish import micro_batches, wish_of
from scheduler.devices.catalogue import CATALOGUE
from scheduler.footprint.curve import Footprint, Modes
from scheduler.footprint.request import Target, cache_key, torch_version, trace_request, traced_as, trainer_digest
from scheduler.jobs.jobfile import parse
from scheduler.jobs.spec import JobSpec
from trainer.memory.kernels import has_flash, workspace_bytes

JOB = """
kind: sft
name: one
model: {hidden_size: 64}
data: {path: /rows.jsonl, max_seq_len: 512}
train: {epochs: 1, batch_size: 12, accumulation_steps: 2}
"""
VIRTUAL, CUDA = Target(kind="virtual"), Target(kind="cuda", capability="8.9")


def spec_of(*overrides: str) -> JobSpec:
    spec, problems = parse(JOB, file="job.yaml", overrides=overrides, default_name="one")
    problems.raise_any()
    return spec


def request_of(*overrides: str, target: Target = VIRTUAL) -> dict[str, Any]:
    wish = wish_of(spec_of(*overrides))
    return trace_request(
        spec_of(*overrides),
        target,
        modes=wish.modes,
        micro_batches=micro_batches(wish.effective_batch, wish.micro_batch),
    )


def key_of(*overrides: str, target: Target = VIRTUAL, torch: str = "2.13", trainer: str = "a") -> str:
    return cache_key(request_of(*overrides, target=target), torch=torch, trainer=trainer)


def test_asks_for_each_means_and_each_micro_batch() -> None:
    request = request_of(target=CUDA)
    assert request["micro_batches"] == [1, 2, 3, 4, 6, 8, 12, 24]
    assert request["target"] == {"kind": "cuda", "capability": "8.0"}
    assert [tuple(mode.values())[:3] for mode in request["modes"]] == [
        ("off", False, True),
        ("selective", False, True),
        ("full", False, True),
        ("off", True, True),
        ("selective", True, True),
        ("full", True, True),
    ]
    assert set(request["config"]) == {"kind", "model", "init_from", "data", "train"}


def test_a_job_over_several_devices_is_asked_about_as_one_of_its_processes() -> None:
    assert request_of("resources.gpus=2")["target"] == VIRTUAL.as_json() | {"processes": 2}
    assert key_of("resources.gpus=2") != key_of()
    wish = wish_of(spec_of("resources.gpus=5"))
    assert (wish.effective_batch, wish.rows) == (24, 5)


def test_asks_for_nothing_that_the_job_rules_out() -> None:
    request = request_of(
        "memory.activation_checkpointing=on",
        "memory.optimizer_offload=off",
        "memory.chunked_loss=off",
        "memory.micro_batch=5",
    )
    assert request["modes"] == [
        Modes(activation_checkpointing="full", optimizer_offload=False, chunked_loss=False).as_json()
    ]
    assert 5 in request["micro_batches"]


@pytest.mark.parametrize(
    "override",
    ["name=two", "train.learning_rate=1e-3", "train.seed=7", "train.epochs=9", "data.path=/other.jsonl", "priority=3"],
)
def test_what_changes_no_byte_shares_the_answer(override: str) -> None:
    assert key_of(override) == key_of()


@pytest.mark.parametrize(
    "override",
    [
        "kind=pretrain",
        "model.hidden_size=128",
        "data.max_seq_len=1024",
        "data.validation=0.1",
        "train.dtype=float32",
        "train.batch_size=6",
        "train.grad_clip=0",
        "memory.activation_checkpointing=off",
        "memory.activation_checkpointing=selective",
        "memory.chunked_loss=off",
    ],
)
def test_what_changes_memory_has_an_answer_of_its_own(override: str) -> None:
    assert key_of(override) != key_of()


def test_the_key_knows_target_torch_and_trainer() -> None:
    keys = {
        key_of(),
        key_of(target=CUDA),
        key_of(target=Target(kind="cuda", capability="9.0")),
        key_of(torch="2.14"),
        key_of(trainer="b"),
    }
    assert len(keys) == 5


def test_gpus_share_an_answer_where_torch_chooses_alike() -> None:
    """The scheduler's rules are those of the tracer, which it can't import: of each GPU of the catalogue."""
    for capability in {entry.capability for entry in CATALOGUE} | {None}:
        like = traced_as(capability)
        assert workspace_bytes(like) == workspace_bytes(capability)
        assert has_flash(like) is has_flash(capability)
    ada, hopper, turing = (key_of(target=Target(kind="cuda", capability=one)) for one in ("8.9", "9.0", "7.5"))
    assert len({ada, hopper, turing}) == 3
    assert key_of(target=Target(kind="cuda", capability="8.6")) == ada
    assert key_of(target=Target(kind="cuda", capability="12.0")) == hopper


def test_versions_are_read_without_importing() -> None:
    assert torch_version()[0].isdecimal()
    assert len(trainer_digest()) == 64


def test_a_footprint_without_candidates_is_none() -> None:
    with pytest.raises(ValueError, match="without candidates"):
        Footprint.from_json({"candidates": [], "parameters": 1, "torch": "2"})
