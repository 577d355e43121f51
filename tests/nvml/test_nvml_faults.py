"""A driver that hangs, dies, vanishes or comes back other than it was: closed, told, and asked again."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.devices.choice import open_devices
from scheduler.devices.nvml import NvmlDevices
from scheduler.devices.nvml_child import ProbeChild, ProbeFailed
from scheduler.errors import MmqError
from tests.nvml.standin import Gpu, Machine

MISMATCH = "fail nvmlInitWithFlags 18"


@pytest.fixture
def devices(machine: Machine, probe: ProbeChild) -> NvmlDevices:
    """Two GPUs, discovered while all was well."""
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b"))
    devices = NvmlDevices(probe)
    devices.discover()
    return devices


def errors(devices: NvmlDevices) -> list[str | None]:
    return [reading.error for reading in devices.read()]


@pytest.mark.parametrize(
    ("fault", "told"),
    [("crash", "died of SIGSEGV"), ("exit", "exit code 3")],
)
def test_a_probe_that_dies_is_replaced(machine: Machine, devices: NvmlDevices, fault: str, told: str) -> None:
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b").but(f"{fault} nvmlDeviceGetMemoryInfo_v2"))
    assert all(error and told in error for error in errors(devices))
    assert [info.id for info in devices.discover()] == ["GPU-a", "GPU-b"]  # as it knew them
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b"))
    assert errors(devices) == [None, None]


def test_a_probe_that_hangs_costs_its_time_limit_and_no_more(machine: Machine) -> None:
    machine.show(Gpu())
    probe = ProbeChild(environment=machine.environment, timeout_seconds=5, pause_seconds=0)
    devices = NvmlDevices(probe)
    devices.discover()
    machine.show(Gpu(), machine=["hang nvmlDeviceGetCount_v2"])
    began = time.monotonic()
    assert errors(devices) == ["NVML did not answer within 5 s"]
    assert time.monotonic() - began < 30
    machine.show(Gpu())
    assert errors(devices) == [None]
    probe.close()


def test_a_probe_that_cannot_be_killed_gets_no_successor(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ProbeChild(environment=machine.environment, timeout_seconds=5, pause_seconds=0)
    machine.show(Gpu(), machine=["hang nvmlInitWithFlags"])
    with monkeypatch.context() as kernel:
        unkilled: list[subprocess.Popen[bytes]] = []
        kernel.setattr(subprocess.Popen, "kill", lambda process: unkilled.append(process))
        with pytest.raises(ProbeFailed, match="did not answer"):
            probe.ask()
    machine.show(Gpu())
    with pytest.raises(ProbeFailed, match=f"hangs inside the driver .pid {unkilled[0].pid}"):
        probe.ask()
    unkilled[0].kill()
    unkilled[0].wait()
    assert probe.ask().error is None
    probe.close()


def test_between_failures_it_waits_longer_and_longer(machine: Machine) -> None:
    now = 100.0
    probe = ProbeChild(environment=machine.environment, pause_seconds=5, monotonic=lambda: now)
    machine.show(Gpu(), machine=["exit nvmlInitWithFlags"])
    for pause in (5, 10, 20, 40, 60, 60):
        with pytest.raises(ProbeFailed, match="exit code 3"):
            probe.ask()
        machine.state.unlink()  # an answer from here on would be another one
        now += pause - 0.1
        with pytest.raises(ProbeFailed, match="exit code 3"):
            probe.ask()
        now += 0.2
        machine.show(Gpu(), machine=["exit nvmlInitWithFlags"])
    machine.show(Gpu())
    assert probe.ask().gpus[0].uuid == "GPU-0"
    probe.close()


def test_a_lost_gpu_closes_itself_alone(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b").but("fail nvmlDeviceGetUtilizationRates 15"))
    assert errors(devices) == [None, "NVML: GPU is lost (code 15)"]
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b").but("fail nvmlDeviceGetHandleByIndex_v2 15"))
    assert errors(devices) == [None, "NVML: GPU is lost (code 15)"]
    assert [info.id for info in devices.discover()] == ["GPU-a"]
    assert errors(devices) == [None]


def test_a_gpu_taken_away(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu(uuid="GPU-a"))
    assert errors(devices) == [None, "this GPU is no longer there"]


def test_other_uuids_after_a_restart(machine: Machine, devices: NvmlDevices) -> None:
    machine.show(Gpu(uuid="GPU-c"), Gpu(uuid="GPU-a"))
    assert errors(devices) == [None, "this GPU is no longer there"]  # GPU-a moved: its UUID is what counts
    assert [(info.id, info.number) for info in devices.discover()] == [("GPU-c", 0), ("GPU-a", 1)]
    assert errors(devices) == [None, None]


def test_a_driver_updated_under_a_running_service(machine: Machine, devices: NvmlDevices, probe: ProbeChild) -> None:
    probe.close()
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b"), machine=[MISMATCH])
    assert all(error and "reboot (code 18)" in error for error in errors(devices))
    machine.show(Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b"))
    assert errors(devices) == [None, None]


def settings(home: Path) -> Settings:
    return Settings.from_environment({"MMQ_HOME": str(home), "MMQ_HOST": "box"})


def test_auto_takes_the_gpus(machine: Machine, probe: ProbeChild, tmp_path: Path) -> None:
    machine.show(Gpu())
    assert open_devices("auto", settings(tmp_path), probe=probe).kind == "cuda"


@pytest.mark.parametrize("absent", [[], ["fail nvmlInitWithFlags 9"], ["fail nvmlInitWithFlags 12"]])
def test_auto_without_a_gpu_is_the_host(machine: Machine, probe: ProbeChild, tmp_path: Path, absent: list[str]) -> None:
    machine.show(machine=absent)
    assert open_devices("auto", settings(tmp_path), probe=probe).kind == "cpu"
    with pytest.raises(MmqError, match="no NVIDIA GPU"):
        open_devices("cuda", settings(tmp_path), probe=probe)


def test_auto_without_the_library_is_the_host(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()  # found first, and no library: so a real one is not reached
    probe = ProbeChild(environment={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert probe.ask().absent
    assert open_devices("auto", settings(tmp_path), probe=probe).kind == "cpu"


@pytest.mark.parametrize("fault", [MISMATCH, "crash nvmlInitWithFlags", "fail nvmlInitWithFlags 4"])
def test_auto_never_turns_to_the_cpu_in_silence(
    machine: Machine, probe: ProbeChild, tmp_path: Path, fault: str
) -> None:
    machine.show(Gpu(), machine=[fault])
    with pytest.raises(MmqError, match="driver does not work") as refusal:
        open_devices("auto", settings(tmp_path), probe=probe)
    assert refusal.value.hint


def test_no_gpu_that_can_be_used_is_said_with_the_reason(machine: Machine, probe: ProbeChild) -> None:
    machine.show(Gpu().but("fail nvmlDeviceGetUUID 15"))
    with pytest.raises(MmqError, match="GPU 0: NVML: GPU is lost"):
        NvmlDevices(probe).discover()
