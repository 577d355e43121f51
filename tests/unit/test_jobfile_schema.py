"""The shipped JSON Schema is the structs' own, and says of a file what the loader says."""

from typing import Any

import jsonschema
import pytest

from scheduler.errors import MmqError
from scheduler.jobs import document, jobfile, schema

VALID = [
    "kind: sft\ndata: {path: x}\n",
    "kind: pretrain\nname: a\nmodel:\ninit_from: 12\ndata: {path: x, validation: 0.01}\n"
    "train: {max_steps: 3, learning_rate: 1e-5}\nmemory: {micro_batch: 4, chunked_loss: off}\n"
    "resources: {max_memory: 20GiB, time_limit: 12h, gpus: 1}\nretries: {crash: 0}\npriority: -3\n",
]
INVALID = [
    "kind: sft\n",
    "kind: sftt\ndata: {path: x}\n",
    "kind: sft\ndata: {path: x}\ntrian: {}\n",
    "kind: sft\ndata: {path: x}\ntrain: {batch_size: 0}\n",
    "kind: sft\ndata: {path: x}\nmemory: {micro_batch: some}\n",
    "kind: sft\nname: 3-9\ndata: {path: x}\n",
]


def test_the_shipped_schema_is_in_step() -> None:
    assert schema.FILE.read_text() == schema.text(), "run: python -m scheduler.jobs.schema"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.job_schema())


def accepts(text: str) -> bool:
    value: Any = document.parse(text, file="job.yaml").value
    return bool(jsonschema.Draft202012Validator(schema.job_schema()).is_valid(value))


@pytest.mark.parametrize("text", VALID)
def test_what_the_loader_takes_the_schema_takes(text: str) -> None:
    jobfile.parse(text, file="job.yaml")
    assert accepts(text)


@pytest.mark.parametrize("text", INVALID)
def test_what_the_loader_refuses_the_schema_refuses(text: str) -> None:
    with pytest.raises(MmqError):
        jobfile.parse(text, file="job.yaml")
    assert not accepts(text)
