"""SwanLab. Who one is there, and whether anything is sent, is for `swanlab login` and its own settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import swanlab

from trainer.reporting.loggers.identity import run_id

PROJECT = "mmq"


class SwanLab:
    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        self._run = swanlab.init(
            project=PROJECT,
            experiment_name=run_dir.name,
            id=run_id(run_dir),
            resume="allow",
            logdir=str(run_dir / "swanlab"),
            config=dict(settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        swanlab.finish()


def open_logger(run_dir: Path, settings: Mapping[str, Any]) -> SwanLab:
    return SwanLab(run_dir, settings)
