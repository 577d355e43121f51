"""What mmq reads of GPUs: the real pynvml in the real probe process, over a stand-in library."""

import os
from pathlib import Path

import pytest

from scheduler.devices.nvml import NvmlDevices
from scheduler.devices.nvml_child import ProbeChild
from scheduler.footprint.context import context_bytes
from tests.nvml.standin import GIB, Gpu, Machine, build


@pytest.fixture
def devices(probe: ProbeChild) -> NvmlDevices:
    return NvmlDevices(probe, clock=lambda: 5.0)


def test_all_facts_of_several_gpus(machine: Machine, devices: NvmlDevices) -> None:
    small = Gpu(uuid="GPU-b", name="NVIDIA GeForce RTX 3060", total=12 * GIB, capability="8.6", used=0)
    machine.show(Gpu(uuid="GPU-a"), small)
    first, second = devices.discover()
    assert (first.id, first.kind, first.number, first.name) == ("GPU-a", "cuda", 0, "NVIDIA GeForce RTX 4090")
    assert first.total_bytes == 24 * GIB - GIB // 4  # the driver keeps its share
    assert (second.id, second.number, second.capability, second.label) == ("GPU-b", 1, "8.6", "cuda:1")
    reading, other = devices.read()
    assert (reading.device_id, reading.at, reading.error) == ("GPU-a", 5.0, None)
    assert (reading.used_bytes, reading.utilisation) == (GIB, 0.37)
    assert other.used_bytes == 0


def test_a_reading_follows_the_machine(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu(used=1))
    devices.discover()
    machine.show(Gpu(used=2))
    assert devices.read()[0].used_bytes == 2


def test_a_process_in_two_lists_is_counted_once(machine: Machine, devices: NvmlDevices) -> None:
    lists = ("compute 10 500", "graphics 10 500", "graphics 11 70", "mps 12 9", "compute 12 9")
    machine.show(Gpu().but(*lists))
    devices.discover()
    assert devices.read()[0].processes == ((10, 500), (11, 70), (12, 9))


def test_processes_without_memory_as_in_a_container(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu(used=GIB).but("compute 10 -"))
    devices.discover()
    reading = devices.read()[0]
    assert reading.processes == ((10, 0),)
    assert (reading.used_bytes, reading.error) == (GIB, None)  # the sum is known all the same


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCudaComputeCapability",
    ],
)
def test_an_unsupported_query_is_no_error(machine: Machine, devices: NvmlDevices, function: str) -> None:
    machine.show(Gpu().but(f"fail {function} 3"))
    devices.discover()
    reading = devices.read()[0]
    assert (reading.error, reading.used_bytes) == (None, GIB)
    assert (reading.utilisation is None) == (function == "nvmlDeviceGetUtilizationRates")


def test_memory_that_cannot_be_read_closes_the_gpu(machine: Machine, devices: NvmlDevices) -> None:
    broken = Gpu(uuid="GPU-b").but("fail nvmlDeviceGetMemoryInfo 3", "fail nvmlDeviceGetMemoryInfo_v2 3")
    machine.show(Gpu(uuid="GPU-a"), broken)
    devices.discover()
    sound, closed = devices.read()
    assert sound.error is None
    assert closed.error == "NVML: Not Supported (code 3)"


def test_mig_closes_the_gpu(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu().but("mig 1"))
    devices.discover()
    error = devices.read()[0].error
    assert error is not None
    assert "MIG" in error


def test_memory_errors_and_heat_are_warnings(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu().but("ecc 2", "throttle 65"))  # 1: idle, which is no fault; 64: too hot
    devices.discover()
    reading = devices.read()[0]
    assert reading.error is None
    assert [warning.split()[0] for warning in reading.warnings] == ["2", "slowed"]


def test_an_old_driver_without_the_newer_functions(machine: Machine, tmp_path: Path) -> None:
    newer = ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMigMode"]
    newer += [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics", "MPSCompute")]
    library = build(tmp_path / "old", without=newer)
    old = Machine(library=library, state=machine.state)
    old.show(Gpu().but("compute 10 500"))
    devices = NvmlDevices(ProbeChild(environment=old.environment))
    assert devices.discover()[0].total_bytes == 24 * GIB
    reading = devices.read()[0]
    devices.close()
    assert (reading.error, reading.processes) == (None, ((10, 500),))
    assert reading.used_bytes == GIB + GIB // 4  # it counts its own share as used: as much is left


def test_the_trainer_sees_one_gpu_by_its_uuid(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b"))
    launch = devices.launch(devices.discover()[1], 7 * GIB)
    assert launch.device == {
        "kind": "cuda",
        "number": 0,
        "limit_bytes": 7 * GIB,
        "context_bytes": context_bytes("cuda", devices.discover()[1].capability),
    }
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_nvml_is_never_loaded_here(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu())
    devices.discover()
    assert "libnvidia-ml" not in Path(f"/proc/{os.getpid()}/maps").read_text()
