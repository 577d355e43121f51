"""How one job is started on several devices: a process on each, in the order of the devices. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from scheduler.devices.device import DeviceInfo, Launch
from scheduler.devices.host_cores import usable_cores
from scheduler.footprint.context import nccl_bytes

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def label(infos: Sequence[DeviceInfo]) -> str:
    """Name devices of one kind as people read them: `cuda:0,1`."""
    return f"{infos[0].kind}:{','.join(str(info.number) for info in infos)}"


def with_nccl_room(launch: Launch, info: DeviceInfo, processes: int) -> Launch:
    """Add to the context of one process of several what NCCL holds beside the allocator."""
    more = nccl_bytes(info.kind, info.capability, processes)
    return replace(launch, device=launch.device | {"context_bytes": launch.device["context_bytes"] + more})


def combine(launches: Sequence[Launch]) -> Launch:
    """Join the launches on each device into one: a process finds its own device by its local rank.

    All processes see all GPUs, which CUDA numbers from 0. Where the devices differ otherwise, `ranks` says how.
    """
    first = launches[0]
    if len(launches) == 1:
        return first
    differences = [
        {key: value for key, value in launch.device.items() if value != first.device[key]} for launch in launches
    ]
    visible = ",".join(filter(None, (launch.environment.get(_VISIBLE) for launch in launches)))
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // len(launches)))}
    return Launch(
        device={**first.device, **({"ranks": differences} if any(differences) else {})},
        environment={**threads, **first.environment, _VISIBLE: visible},
    )
