"""A small job on a real GPU through the trainer's own command, and its peak as predicted without one."""

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.devices.device import DeviceInfo, Devices, Launch
from scheduler.footprint.context import context_bytes
from tests.gpu.conftest import RunPython

pytestmark = pytest.mark.gpu
GIB = 1024**3
MICRO_BATCH = 16
PLAN = {"activation_checkpointing": False, "optimizer_offload": False, "chunked_loss": True}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """What to train: a decoder of 8 layers, some steps on made-up text."""
    data = tmp_path / "data.jsonl"
    sentences = (f"Sentence {n} says that {n} times {n} is {n * n}, and {n + 1} comes next." for n in range(2000))
    data.write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in sentences))
    return {
        "kind": "pretrain",
        "model": {"hidden_size": 512, "num_hidden_layers": 8},
        "data": {"path": str(data), "max_seq_len": 64},
        "train": {"max_steps": 20, "batch_size": MICRO_BATCH, "accumulation_steps": 2, "log_interval": 5},
    }


def train(job: dict[str, Any], launch: Launch, run_dir: Path, run_python: RunPython) -> list[dict[str, Any]]:
    """Train to the end; give the events."""
    config = job | {"plan": PLAN | {"micro_batch": MICRO_BATCH}, "device": launch.device}
    path = run_dir.with_suffix(".json")
    path.write_text(json.dumps(config))
    run_python(launch, "-m", "trainer", str(path), str(run_dir))
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def predict(job: dict[str, Any], gpu: DeviceInfo, run_python: RunPython) -> dict[str, int]:
    """Ask the tracer, with no GPU in sight."""
    target = {"kind": "cuda", "capability": gpu.capability, "context_bytes": context_bytes("cuda", gpu.capability)}
    request = {"config": job, "target": target, "modes": [PLAN], "micro_batches": [MICRO_BATCH]}
    blind = Launch(device={}, environment={"CUDA_VISIBLE_DEVICES": ""})
    answer = json.loads(run_python(blind, "-m", "trainer.trace", stdin=json.dumps(request)).stdout)
    candidate: dict[str, int] = answer["candidates"][0]
    return candidate


def test_a_small_job_runs_and_its_peak_was_predicted(
    job: dict[str, Any], devices: Devices, gpu: DeviceInfo, tmp_path: Path, run_python: RunPython
) -> None:
    predicted = predict(job, gpu, run_python)
    launch = devices.launch(gpu, max(4 * GIB, 2 * predicted["process_bytes"]))
    events = train(job, launch, tmp_path / "run", run_python)
    steps = [event for event in events if event["event"] == "step"]
    assert events[-1]["event"] == "finished"
    assert steps[-1]["loss"] < steps[0]["loss"]
    for counter in ("allocated", "reserved"):
        measured = steps[-1][f"{counter}_peak_bytes"]
        assert predicted[f"{counter}_bytes"] == pytest.approx(measured, rel=0.03), counter
