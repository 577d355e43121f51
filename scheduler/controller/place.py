"""The devices that an estimate is for, taken to be empty: GPUs by name or size, or those of this host."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from scheduler.config import Settings
from scheduler.devices.catalogue import find
from scheduler.devices.choice import open_devices
from scheduler.errors import UsageError
from scheduler.footprint.request import Target
from scheduler.processes.locks import lock_held
from scheduler.store.devices import DeviceFacts, list_devices
from scheduler.store.opening import read_if_possible


@dataclass(frozen=True, kw_only=True)
class Place:
    name: str
    target: Target
    total_bytes: int
    count: int = 1  # alike

    def as_json(self) -> dict[str, Any]:
        row = {"name": self.name, "kind": self.target.kind, "total_bytes": self.total_bytes}
        return row | ({"count": self.count} if self.count > 1 else {})


def places_of(gpus: Sequence[str], settings: Settings) -> list[Place]:
    """Find the devices named, or those of this host, the largest first and alike ones as one.

    UsageError for a GPU that is not known, or where there is none.
    """
    return [_named(gpu) for gpu in gpus] if gpus else _here(settings)


def _named(gpu: str) -> Place:
    entry = find(gpu)
    target = Target(kind="cuda", capability=entry.capability)
    return Place(name=entry.name, target=target, total_bytes=entry.total_bytes)


def _here(settings: Settings) -> list[Place]:
    infos = _served(settings) or _found(settings)
    if not infos:
        raise UsageError("there is no device here to estimate for", hint="mmq estimate FILE --gpu 24GiB")
    alike: dict[tuple[int, Target], list[DeviceFacts]] = {}
    for info in sorted(infos, key=lambda info: -info.total_bytes):
        alike.setdefault((info.total_bytes, Target(kind=info.kind, capability=info.capability)), []).append(info)
    return [
        Place(name=_name(same), target=target, total_bytes=total_bytes, count=len(same))
        for (total_bytes, target), same in alike.items()
    ]


def _name(alike: Sequence[DeviceFacts]) -> str:
    numbers = ",".join(str(one.number) for one in sorted(alike, key=lambda one: one.number))
    return f"{alike[0].kind}:{numbers} ({alike[0].name})"


def _served(settings: Settings) -> Sequence[DeviceFacts]:
    """Return what a running service works with, which may not be what this environment says."""
    if not any(map(lock_held, settings.service_locks())):
        return []
    known = read_if_possible(settings, list_devices) or []
    return [device for device in known if device.present and device.host == settings.host]


def _found(settings: Settings) -> Sequence[DeviceFacts]:
    with closing(open_devices(settings.devices, settings)) as devices:
        return devices.discover()
