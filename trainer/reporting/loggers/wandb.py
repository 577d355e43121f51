"""Weights & Biases. Who one is there, and whether anything is sent, is for `wandb login` and its own settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from trainer.reporting.loggers.identity import run_id

PROJECT = "mmq"


class WeightsAndBiases:
    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        self._run = wandb.init(
            project=PROJECT,
            name=run_dir.name,
            id=run_id(run_dir),
            resume="allow",
            dir=str(run_dir),
            config=dict(settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open_logger(run_dir: Path, settings: Mapping[str, Any]) -> WeightsAndBiases:
    return WeightsAndBiases(run_dir, settings)
