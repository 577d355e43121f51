"""What a device is to the rest of mmq: its properties, the latest reading of it, how a trainer is started on it.

Values and one Protocol. Knows nothing of jobs, reservations or the store.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """What does not change while a device is there."""

    id: str  # a GPU's UUID; "virtual-0@host"; "cpu@host"
    kind: str  # cuda | cpu | virtual
    number: int
    name: str
    total_bytes: int  # what processes can use; the driver's own share is taken off
    capability: str | None  # compute capability, "8.9"; cuda only

    @property
    def label(self) -> str:
        """The device as people read it: `cuda:0`."""
        return f"{self.kind}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class DeviceReading:
    """One reading of a device. With an `error` the figures mean nothing: admit nothing to it."""

    device_id: str
    at: float
    total_bytes: int
    used_bytes: int  # by all processes, whoever started them
    processes: tuple[tuple[int, int], ...]  # (pid, bytes); bytes 0: the driver does not say
    utilisation: float | None  # 0 to 1; None: not known
    error: str | None = None
    warnings: tuple[str, ...] = ()  # for people to look at; jobs are still admitted


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a trainer on a device: the `device` of its configuration, and its environment."""

    device: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)


class Devices(Protocol):
    """All devices of one kind on this host."""

    @property
    def kind(self) -> str: ...

    def discover(self) -> list[DeviceInfo]:
        """List the devices there are now; MmqError if they can't be listed and never were."""
        ...

    def read(self) -> list[DeviceReading]:
        """Read each device of the latest `discover()`, in its order. Never raises."""
        ...

    def launch(self, info: DeviceInfo, limit_bytes: int | None) -> Launch:
        """Say how to start a trainer there that may take at most `limit_bytes` of the device."""
        ...

    def close(self) -> None: ...
