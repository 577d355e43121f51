"""The devices of this host as the service sees them now: what is there, the latest look, and what went wrong."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scheduler.admission.facts import Claim, DeviceView
from scheduler.devices.device import DeviceInfo, DeviceReading, Devices
from scheduler.errors import MmqError
from scheduler.footprint.request import Target

STALE_SECONDS = 30.0

log = logging.getLogger(__name__)

_LABELS = {"cuda": "GPU {}", "virtual": "virtual device {}", "cpu": "the host's memory"}


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """One look at all devices."""

    infos: tuple[DeviceInfo, ...] = ()
    readings: Mapping[str, DeviceReading] = field(default_factory=dict)

    @cached_property
    def targets(self) -> frozenset[Target]:
        """The kinds of device that there are, as footprints tell them apart."""
        return frozenset(target_of(info) for info in self.infos)

    def info(self, device_id: str) -> DeviceInfo:
        return next(info for info in self.infos if info.id == device_id)


class Discovery:
    """Discovers now and then, reads each time. Keeps the last that was known to be there."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._infos: tuple[DeviceInfo, ...] = ()
        self.complaint: str | None = None

    def discover(self) -> tuple[DeviceInfo, ...]:
        try:
            self._infos = tuple(self._devices.discover())
            self.complaint = None
        except MmqError as error:
            if self.complaint != error.message:
                log.warning("no devices: %s", error.message)
            self.complaint = error.message
        return self._infos

    def look(self) -> Inventory:
        readings = self._devices.read() if self._infos else []
        return Inventory(infos=self._infos, readings={reading.device_id: reading for reading in readings})


def target_of(info: DeviceInfo) -> Target:
    return Target(kind=info.kind, capability=info.capability)


def view(
    info: DeviceInfo, reading: DeviceReading | None, claims: tuple[Claim, ...], *, foreign_bytes: int, now: float
) -> DeviceView:
    """Put a device together for the cycle. Without a fresh reading free of errors it has a problem."""
    return DeviceView(
        device_id=info.id,
        label=_LABELS[info.kind].format(info.number),
        kind=info.kind,
        target=target_of(info).name,
        total_bytes=info.total_bytes if reading is None else min(info.total_bytes, reading.total_bytes),
        used_bytes=0 if reading is None else reading.used_bytes,
        foreign_bytes=foreign_bytes,
        claims=claims,
        problem=_problem(reading, now),
    )


def _problem(reading: DeviceReading | None, now: float) -> str | None:
    if reading is None:
        return "it could not be read"
    if reading.error is not None:
        return reading.error
    age = abs(now - reading.at)  # a clock that was set back makes it from the future: no better
    return f"its last reading is {age:.0f} s old" if age > STALE_SECONDS else None
