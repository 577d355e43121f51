"""Both sides of the contract: the configuration made of a job is one that the trainer takes, and means the same."""

import msgspec
import pytest

from scheduler.jobs import jobfile, rows
from scheduler.jobs.trainer_config import trainer_config
from trainer.config import Config
from trainer.data import rows as trainer_rows

PLAN = {"micro_batch": 4, "activation_checkpointing": "selective", "optimizer_offload": False, "chunked_loss": True}


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
@pytest.mark.parametrize("more", ["", "model: {preset: minimind2-small}\n", "train: {max_steps: 3, batch_size: 5}\n"])
def test_the_trainer_takes_what_a_job_becomes(kind: str, more: str) -> None:
    job, _ = jobfile.parse(f"kind: {kind}\ndata: {{path: /rows.jsonl}}\n{more}", file="job.yaml")
    device = {
        "kind": "virtual",
        "ledger": "/ledger",
        "total_bytes": 1 << 30,
        "context_bytes": 0,
        "limit_bytes": 1 << 29,
    }
    plan = PLAN | {"accumulation_steps": 4, "device_config": {}}
    made = trainer_config(job, init_from_path="/final", plan=plan, device=device, attempt=2)
    config = msgspec.convert(made, Config)
    assert (config.kind, config.init_from, config.attempt, config.on_out_of_memory) == (kind, "/final", 2, "halve")
    assert config.train.batch_size == job.train.batch_size
    assert config.model.intermediate_size == job.model.intermediate_size
    assert config.data.max_seq_len == job.data.max_seq_len
    assert msgspec.to_builtins(config.plan) == PLAN | {"sharding": "none", "tensor_parallel": 1}
    # The trainer's own defaults are MiniMind's as well: nothing changes when all is written out.
    bare = msgspec.convert({"kind": kind, "data": {"path": "/rows.jsonl"}}, Config)
    if not more:
        assert (bare.batch_size, bare.learning_rate) == (config.batch_size, config.learning_rate)
        assert bare.max_seq_len == config.max_seq_len


def test_both_read_rows_alike() -> None:
    assert rows.ROLES == trainer_rows.ROLES
    assert rows.LINE_BYTES == trainer_rows.LINE_LIMIT_BYTES
