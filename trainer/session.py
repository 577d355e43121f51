"""A device opened for a run, and what is left of out-of-memory errors when they come from outside a step."""

import gc
from pathlib import Path

import msgspec
import torch

from trainer.config import Config
from trainer.errors import BadConfiguration, OutOfDeviceMemory
from trainer.loop import train
from trainer.memory.choice import open_device
from trainer.memory.device import Device
from trainer.memory.refusal import is_refusal, refusal_numbers
from trainer.processes.group import open_group
from trainer.processes.launched import local_rank
from trainer.reporting.events import EventLog
from trainer.stopping import StopRequest


def run_session(config: Config, run_dir: Path, events: EventLog, stop: StopRequest) -> None:
    """Run `train` on the device that CONFIG names."""
    try:
        device = _open(config)
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemory(f"the device has no room for this process: {error}") from None
    try:
        with open_group(config.plan, device) as group, device.accounting():
            train(config, run_dir, device, events, stop, group)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_refusal(error, device):
            raise
        message, numbers = str(error), refusal_numbers(error, device)
    gc.collect()
    micro_batch = config.micro_batch
    events.write(
        "out_of_memory", step=None, phase="outside steps", micro_batch=micro_batch, new_micro_batch=None, **numbers
    )
    raise OutOfDeviceMemory(f"out of device memory outside a training step: {message}")


def _open(config: Config) -> Device:
    settings = msgspec.to_builtins(config.device)
    has_cuda = config.device.kind in ("auto", "cuda") and torch.cuda.is_available()
    if config.device.kind == "auto":
        settings["kind"] = "cuda" if has_cuda else "cpu"
    elif config.device.kind == "cuda" and not has_cuda:
        raise BadConfiguration("device.kind: cuda, but torch finds no CUDA device\nhint: nvidia-smi")
    settings["number"] += local_rank()
    ranks = settings.pop("ranks")
    if ranks and local_rank() >= len(ranks):
        raise BadConfiguration(f"device.ranks: {len(ranks)} are named, and this is process {local_rank()} of its host")
    return open_device(settings | (ranks[local_rank()] if ranks else {}))
