"""Which devices a service uses, as specified: `auto`, `cuda`, `cpu[:BYTES]` or `virtual:NxSIZE`."""

from scheduler.config import Settings
from scheduler.devices.cpu import CpuDevices, parse_budget
from scheduler.devices.device import Devices
from scheduler.devices.nvml import find_gpus
from scheduler.devices.nvml_child import ProbeChild
from scheduler.devices.virtual import VirtualDevices, parse_virtual
from scheduler.errors import MmqError, UsageError


def open_devices(spec: str, settings: Settings, *, probe: ProbeChild | None = None) -> Devices:
    """Open the devices that `spec` names; UsageError if it names none, MmqError if they can't be used.

    `auto` means the GPUs if there are any, else the host's memory. A GPU driver that is installed but does not work is
    an error: jobs must not move to the CPU silently.
    """
    kind, colon, rest = spec.strip().partition(":")
    if kind == "virtual":
        count, total_bytes = parse_virtual(rest)
        return VirtualDevices(count, total_bytes, ledger_dir=settings.ledger_dir, host=settings.host)
    if kind == "cpu":
        return CpuDevices(parse_budget(rest), host=settings.host)
    if kind in ("auto", "cuda") and not colon:
        gpus = find_gpus(probe or ProbeChild())
        if gpus is None and kind == "cuda":
            raise MmqError("this host has no NVIDIA GPU", hint="MMQ_DEVICES=auto or cpu does without")
        return gpus or CpuDevices(parse_budget(""), host=settings.host)
    raise UsageError(
        f"{spec!r} names no devices",
        hint="use auto, cuda, cpu, cpu:8GiB or virtual:2x20GiB",
    )
