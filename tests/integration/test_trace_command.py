"""`python -m trainer.trace`, from outside: a request in, footprints out."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

REQUEST: dict[str, Any] = {
    "config": {
        "kind": "sft",
        "data": {"path": "nowhere.jsonl", "max_seq_len": 24, "validation": 0.0},
        "model": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        "train": {"batch_size": 4, "accumulation_steps": 2, "dtype": "bfloat16"},
    },
    "target": {"kind": "cuda", "capability": "8.9"},
    "modes": [
        {"activation_checkpointing": "off", "optimizer_offload": False, "chunked_loss": True},
        {"activation_checkpointing": "selective", "optimizer_offload": True, "chunked_loss": False},
    ],
    "micro_batches": [1, 4, 8],
}
PARTS = {"weights", "gradients", "optimizer", "activations", "logits", "workspace", "context", "cached"}


def traced(request: object, env: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.trace"]
    return subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=100, env=env)


def test_answers_each_candidate_of_each_mode() -> None:
    done = traced(REQUEST)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert {"torch", "seconds", "parameters", "candidates"} <= set(answer)
    assert [(c["activation_checkpointing"], c["micro_batch"]) for c in answer["candidates"]] == [
        (mode, rows) for mode in ("off", "selective") for rows in (1, 4, 8)
    ]
    for candidate in answer["candidates"]:
        assert set(candidate["parts"]) == PARTS
        assert sum(candidate["parts"].values()) == candidate["process_bytes"]
        assert candidate["process_bytes"] == candidate["reserved_bytes"]  # who asks adds the context
    assert answer["candidates"][3]["parts"]["optimizer"] == 0  # offloaded


def test_a_configuration_that_cannot_be_is_one_line_and_exit_2() -> None:
    model = {**REQUEST["config"]["model"], "hidden_sise": 64}
    done = traced({**REQUEST, "config": {**REQUEST["config"], "model": model}})
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "hidden_sise" in done.stderr


def test_a_request_that_is_none_is_one_line_and_exit_2() -> None:
    done = traced({**REQUEST, "micro_batches": [0]})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "micro_batches" in done.stderr


def test_torch_s_compiler_stays_out_and_is_still_there_for_who_asks() -> None:
    program = """if True:
        import json, sys
        from trainer.trace.answer import answer
        answer(sys.stdin.buffer.read())
        assert not [name for name in sys.modules if name.startswith("torch._dynamo.")]
        import torch
        import torch._dynamo.config
        assert torch._dynamo.config.recompile_limit > 0
        assert callable(torch._dynamo.optimize)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(REQUEST), capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_one_rank_of_several_holds_its_part() -> None:
    modes = [REQUEST["modes"][0] | plan for plan in ({}, {"sharding": "zero3"}, {"tensor_parallel": 2})]
    asked = {**REQUEST, "target": REQUEST["target"] | {"processes": 4}, "modes": modes, "micro_batches": [2]}
    done = traced(asked)
    assert (done.returncode, done.stderr) == (0, "")
    whole, zero3, tensor = (candidate["parts"] for candidate in json.loads(done.stdout)["candidates"])
    assert 0.2 < zero3["optimizer"] / whole["optimizer"] < 0.3
    assert zero3["weights"] < tensor["weights"] < whole["weights"]

    done = traced({**asked, "target": REQUEST["target"] | {"processes": 3}})
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "divides no 3 processes" in done.stderr


def test_a_rank_is_told_the_same_to_the_byte_whatever_the_order_of_sets_of_modes_and_of_workers() -> None:
    """FSDP and DTensor keep sets, caches and cycles: none of them may decide when memory is given back."""
    modes = [
        REQUEST["modes"][0] | plan
        for plan in (
            {"sharding": "zero2", "optimizer_offload": True},
            {"sharding": "zero3", "activation_checkpointing": "full"},
            {"tensor_parallel": 2},
        )
    ]
    asked = {**REQUEST, "target": REQUEST["target"] | {"processes": 2}, "micro_batches": [1, 3]}
    told = []
    for seed, order, workers in (("0", 1, 1), ("5", -1, 2)):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = traced({**asked, "modes": modes[::order], "workers": workers}, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        told.append(sorted(json.loads(done.stdout)["candidates"], key=str))
    assert told[0] == told[1]
