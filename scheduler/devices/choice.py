"""Which devices a service uses, as the person said: `auto`, `cuda`, `cpu[:BYTES]` or `virtual:NxSIZE`."""

from scheduler.config import Settings
from scheduler.devices.cpu import CpuDevices, parse_budget
from scheduler.devices.device import Devices
from scheduler.devices.virtual import VirtualDevices, parse_virtual
from scheduler.errors import UsageError


def open_devices(spec: str, settings: Settings) -> Devices:
    """Open the devices that `spec` names; UsageError if it names none."""
    kind, _, rest = spec.strip().partition(":")
    if kind == "virtual":
        count, total_bytes = parse_virtual(rest)
        return VirtualDevices(count, total_bytes, ledger_dir=settings.ledger_dir, host=settings.host)
    if kind in ("cpu", "auto"):
        return CpuDevices(parse_budget(rest), host=settings.host)
    raise UsageError(
        f"{spec!r} names no devices",
        hint="use auto, cuda, cpu, cpu:8GiB or virtual:2x20GiB",
    )
