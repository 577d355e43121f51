"""The scheduler's request and the trainer's tracer, together: the two sides of the contract."""

import json

from scheduler.admission.wish import micro_batches, wish_of
from scheduler.footprint.curve import Footprint
from scheduler.footprint.request import Target, trace_request
from scheduler.footprint.tracer import trace
from scheduler.jobs.jobfile import parse

JOB = """
kind: sft
name: tiny
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, vocab_size: 300}
data: {path: /rows.jsonl, max_seq_len: 32}
train: {epochs: 1, batch_size: 4, accumulation_steps: 1, dtype: float32}
memory: {optimizer_offload: off}
"""


def test_a_real_trace_of_a_small_job() -> None:
    kind = "cuda"
    spec, problems = parse(JOB, file="job.yaml", overrides=(), default_name="tiny")
    problems.raise_any()
    wish = wish_of(spec)
    sizes = micro_batches(wish.effective_batch)
    answer = trace("k", trace_request(spec, Target(kind=kind), modes=wish.modes, micro_batches=sizes))
    assert answer.error is None
    footprint = Footprint.from_json(json.loads(answer.body or ""))
    assert {(one.micro_batch, one.modes) for one in footprint.candidates} == {
        (size, modes) for size in sizes for modes in wish.modes
    }
    for one in footprint.candidates:
        assert one.process_bytes == one.reserved_bytes  # the context is added to the answer
        assert one.parts["weights"] >= footprint.parameters * 4
    plain = [one.allocated_bytes for one in footprint.candidates if one.modes == wish.modes[0]]
    assert plain == sorted(plain)


def test_a_configuration_that_cannot_be_built_is_hopeless() -> None:
    spec, problems = parse(JOB, file="job.yaml", overrides=(), default_name="tiny")
    problems.raise_any()
    wish = wish_of(spec)
    request = trace_request(spec, Target(kind="virtual"), modes=wish.modes, micro_batches=[1])
    request["config"]["model"]["num_attention_heads"] = 0
    answer = trace("k", request)
    assert answer.hopeless
    assert "num_attention_heads" in (answer.error or "")
