"""TensorBoard's files, in the run directory: `tensorboard --logdir RUN_DIR/tensorboard` shows them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoard:
    def __init__(self, directory: Path) -> None:
        self._writer = EventFileWriter(str(directory))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        values_by_tag = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values_by_tag)))

    def close(self) -> None:
        self._writer.close()


def open_logger(run_dir: Path, settings: Mapping[str, Any]) -> TensorBoard:
    return TensorBoard(run_dir / "tensorboard")
