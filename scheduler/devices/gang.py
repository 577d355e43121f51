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


def one_of_several(launch: Launch, info: DeviceInfo, processes: int) -> Launch:
    """Leave room beside the allocator for what NCCL holds."""
    more = nccl_bytes(info.kind, info.capability, processes)
    return replace(launch, device=launch.device | {"context_bytes": launch.device["context_bytes"] + more})


def together(launches: Sequence[Launch]) -> Launch:
    """Join what each device asks for: its process finds itself by its local rank.

    All see all GPUs, of which CUDA numbers the first 0. Where the devices differ otherwise, `ranks` says how.
    """
    first = launches[0]
    if len(launches) == 1:
        return first
    own = [{key: value for key, value in one.device.items() if value != first.device[key]} for one in launches]
    visible = ",".join(filter(None, (one.environment.get(_VISIBLE) for one in launches)))
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // len(launches)))}
    return Launch(
        device={**first.device, **({"ranks": own} if any(own) else {})},
        environment={**threads, **first.environment, _VISIBLE: visible},
    )
