"""Whether a job can ever run on the devices known here: what can't is refused at submit, naming what would do.

A closed form, a lower bound for every plan: the weights, the gradients of what is trained, and the optimizer's states
unless they may be offloaded; each of several devices has its share of what may be divided. What activations need on
top is for the footprint to say.
"""

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.config import Settings
from scheduler.jobs import parameters
from scheduler.jobs.means import shardings
from scheduler.jobs.problems import Problems
from scheduler.jobs.spec import JobSpec
from scheduler.store import views
from scheduler.store.database import Database
from scheduler.units import format_bytes

WIDTH_BYTES = {"float32": 4, "bfloat16": 2}
REST_BYTES = {"float32": 0, "bfloat16": 2}  # what a weight lacks of float32
MOMENTS_BYTES = {"adamw": 8, "adamw8bit": 2}


class KnownDevice(NamedTuple):
    id: str
    number: int
    label: str
    total_bytes: int


def require_feasible(spec: JobSpec, problems: Problems, database: Database | None, settings: Settings) -> None:
    """Raise FileErrors for what no device known here can ever do."""
    devices = _chosen(spec, problems, known_devices(database, settings))
    _gpus(spec, problems, devices)
    _memory(spec, problems, devices)
    problems.raise_any()


def known_devices(database: Database | None, settings: Settings) -> list[KnownDevice]:
    """The devices that the service has found; before it ever ran, those that MMQ_DEVICES names; else none."""
    rows = views.devices(database) if database is not None else []
    if rows:
        return [
            KnownDevice(row["id"], row["number"], f"{row['kind']}:{row['number']}", row["total_bytes"]) for row in rows
        ]
    if settings.devices == "auto":
        return []
    from scheduler.devices.choice import open_devices

    devices = open_devices(settings.devices, settings)
    try:
        return [KnownDevice(info.id, info.number, info.label, info.total_bytes) for info in devices.discover()]
    finally:
        devices.close()


def _chosen(spec: JobSpec, problems: Problems, devices: Sequence[KnownDevice]) -> list[KnownDevice]:
    """Return the devices that the job may have; where any are known, each that it names must be among them."""
    named = spec.resources.devices
    if named is None or not devices:
        return list(devices)
    known = {key for device in devices for key in (device.id, device.number)}
    missing = [name for name in named if name not in known]
    if missing:
        have = ", ".join(f"{device.number} ({device.id})" for device in devices[:8])
        problems.add(("resources", "devices"), f"there is no device {missing[0]} here", f"there are: {have}")
    return [device for device in devices if device.id in named or device.number in named]


def _gpus(spec: JobSpec, problems: Problems, devices: Sequence[KnownDevice]) -> None:
    asked = spec.resources.gpus
    if devices and asked > len(devices):
        have = "there is 1 device" if len(devices) == 1 else f"there are {len(devices)} devices"
        problems.add(("resources", "gpus"), f"asks for {asked} GPUs, but {have} here", f"gpus: {len(devices)} or fewer")
    elif asked // spec.memory.tensor_parallel > spec.effective_batch:
        reason = f"asks for {asked} GPUs, but an optimizer step has only {spec.effective_batch} rows to share out"
        problems.add(("resources", "gpus"), reason, f"gpus: {spec.effective_batch} or fewer")


def _memory(spec: JobSpec, problems: Problems, devices: Sequence[KnownDevice]) -> None:
    need = least_bytes(spec)
    limit = spec.resources.max_memory_bytes
    each = f" on each of {spec.resources.gpus} devices" if spec.resources.gpus > 1 else ""
    what = f"the model's {parameters.count(spec.model):,} parameters need at least {format_bytes(need)}{each}"
    parts = "for weights and gradients" + (" and Adam's moments" if spec.memory.optimizer_offload == "off" else "")
    if limit is not None and need > limit:
        reason = f"{what} {parts}, more than the {format_bytes(limit)} allowed"
        problems.add(("resources", "max_memory"), reason, f"max_memory: {_whole_gib(need)}, or a smaller model")
        return
    largest = max(devices, key=lambda device: device.total_bytes, default=None)
    if largest is not None and need > largest.total_bytes:
        reason = f"{what} {parts}; the largest device here, {largest.label}, has {format_bytes(largest.total_bytes)}"
        fits = largest.total_bytes * parameters.count(spec.model) // need
        would = f"a device of more than {_whole_gib(need)}, or a model of fewer than {fits:,} parameters"
        problems.add(("model",), reason, would)


def least_bytes(spec: JobSpec) -> int:
    """The least device memory of any plan, activations and context aside."""
    weights, adapters = parameters.count(spec.model), parameters.adapters(spec.model, spec.train)
    width, is_kept = WIDTH_BYTES[spec.train.weights], spec.memory.optimizer_offload == "off"
    moments = MOMENTS_BYTES[spec.train.optimizer] if is_kept else 0
    weight_parts, state_parts = _parts(spec)
    if adapters:  # which are float32 themselves
        states = adapters * (2 * WIDTH_BYTES["float32"] + moments)
        return _part(weights * width, weight_parts) + _part(states, state_parts)
    rest = REST_BYTES[spec.train.weights] if is_kept else 0
    return _part(weights * width, weight_parts) + _part(weights * (width + rest + moments), state_parts)


def _parts(spec: JobSpec) -> tuple[int, int]:
    """Return into how many parts the weights may be divided, and gradients with optimizer states."""
    gpus, ways = spec.resources.gpus, spec.memory.tensor_parallel
    smallest = shardings(
        spec.memory.sharding,
        processes=gpus,
        tensor_parallel=ways,
        optimizer=spec.train.optimizer,
        compiled=spec.train.compile,
    )[-1]
    return gpus if smallest == "zero3" else ways, gpus if smallest != "none" else ways


def _part(whole: int, parts: int) -> int:
    return -(-whole // parts)


def _whole_gib(count: int) -> str:
    return f"{-(-count // 2**30)}GiB"
