"""A workshop for training runs: tiny data, tiny configurations, runs in this process or in their own."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer.config import parse_config
from trainer.loop import train
from trainer.memory.cpu import CpuDevice
from trainer.memory.device import Device
from trainer.reporting.events import EventLog
from trainer.stopping import StopRequest

REPOSITORY = Path(__file__).parents[2]
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 512,
}
WORDS = "the model reads a row of words and learns which word comes next in each of its many rows".split()
PATIENCE_SECONDS = 60.0


class Workshop:
    """One directory with data files; runs go into directories of their own under it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        draw = random.Random(7)
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(40)]
        self.pretrain = self.write("pretrain.jsonl", [{"text": text} for text in texts])
        self.sft = self.write(
            "sft.jsonl",
            [
                {
                    "conversations": [
                        {"role": "user", "content": " ".join(draw.choices(WORDS, k=5))},
                        {"role": "assistant", "content": text},
                    ]
                }
                for text in texts
            ],
        )

    def write(self, name: str, rows: list[Any]) -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def config(self, kind: str = "pretrain", **sections: Any) -> dict[str, Any]:
        """Give a CONFIG as a dict: 8 rows a step, 8 steps, each logged; sections are merged into it."""
        path = self.pretrain if kind == "pretrain" else self.sft
        config: dict[str, Any] = {
            "kind": kind,
            "model": MODEL,
            "data": {"path": str(path), "max_seq_len": 40, "cache": str(self.root / "cache")},
            "train": {
                "max_steps": 8,
                "batch_size": 8,
                "accumulation_steps": 1,
                "learning_rate": 1e-2,
                "dtype": "float32",
                "log_interval": 1,
                "save_interval": 3,
            },
            "device": {"kind": "cpu"},
            "sample": {"max_new_tokens": 3},
        }
        for name, section in sections.items():
            config[name] = config.get(name, {}) | section if isinstance(section, Mapping) else section
        return config

    def train(
        self, name: str, config: dict[str, Any], device: Device | None = None, stop: StopRequest | None = None
    ) -> "Outcome":
        """Run to the end in this process; errors come through."""
        run_dir = self.root / name
        run_dir.mkdir(exist_ok=True)
        device = device or CpuDevice(None)
        with device.accounting():
            train(
                parse_config(config),
                run_dir,
                device,
                EventLog(run_dir / "events.jsonl"),
                StopRequest() if stop is None else stop,
            )
        return Outcome(run_dir)

    def outcome(self, name: str) -> "Outcome":
        return Outcome(self.root / name)

    def start(self, name: str, config: dict[str, Any]) -> "Process":
        """Run `python -m trainer` as a person would."""
        run_dir = self.root / name
        run_dir.mkdir(exist_ok=True)
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return Process(path, run_dir)


class Outcome:
    """What a run left behind."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        path = self.run_dir / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        events = []
        for line in lines:
            try:
                events.append(json.loads(line))
            except ValueError:
                assert line != lines[0]  # one cut short by a kill
        return [event for event in events if kind in (None, event["event"])]

    def losses(self) -> dict[int, float]:
        """Give the loss of each step; of one run twice, the later."""
        return {event["step"]: event["loss"] for event in self.events("step")}


class Process(Outcome):
    def __init__(self, config: Path, run_dir: Path) -> None:
        super().__init__(run_dir)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer", str(config), str(run_dir)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, condition: Callable[["Process"], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(self):
            assert time.monotonic() < deadline, "waited in vain"
            assert self._process.poll() is None, self._process.communicate()[0]
            time.sleep(0.002)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Give the exit code and everything it printed."""
        output = self._process.communicate(timeout=PATIENCE_SECONDS)[0]
        return self._process.returncode, output


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture(scope="module")
def shared_workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """For properties, which draw many runs over the same data."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


def assert_same_curve(curve: dict[int, float], expected: dict[int, float]) -> None:
    assert curve.keys() == expected.keys()
    for step, loss in curve.items():
        assert loss == pytest.approx(expected[step], rel=1e-6), f"step {step}"


def assert_resumes_bit_for_bit(workshop: Workshop, config: dict[str, Any]) -> None:
    """Run eight steps, set the run back to its last checkpoint but one, and end it again."""
    undisturbed = workshop.train("run", config)
    losses, result = undisturbed.losses(), load_file(undisturbed.run_dir / "final/model.safetensors")
    shutil.rmtree(undisturbed.run_dir / "final")
    shutil.rmtree(undisturbed.run_dir / "checkpoints/step-8")
    resumed = workshop.train("run", config)
    assert resumed.events("started")[-1]["step"] == 6
    assert resumed.losses() == losses
    for name, tensor in load_file(resumed.run_dir / "final/model.safetensors").items():
        assert tensor.equal(result[name]), name
