"""NVML as it really is, against what torch says of the same GPU, and the cap on a process."""

import json
import subprocess
import sys
from os import environ

import pytest

from scheduler.devices.device import DeviceInfo, DeviceReading, Devices
from tests.gpu.conftest import RunPython

pytestmark = pytest.mark.gpu
GIB = 1024**3


def reading(devices: Devices, gpu: DeviceInfo) -> DeviceReading:
    found = next(reading for reading in devices.read() if reading.device_id == gpu.id)
    assert found.error is None
    return found


def test_nvml_and_torch_agree_on_the_gpu(devices: Devices, gpu: DeviceInfo, run_python: RunPython) -> None:
    program = (
        "import json, torch; p = torch.cuda.get_device_properties(0);"
        "print(json.dumps([torch.cuda.device_count(), p.name, p.total_memory, f'{p.major}.{p.minor}']))"
    )
    count, name, total_bytes, capability = json.loads(run_python(devices.launch(gpu, None), "-c", program).stdout)
    assert (count, name, capability) == (1, gpu.name, gpu.capability)
    assert total_bytes == pytest.approx(gpu.total_bytes, rel=0.01)


def test_what_a_process_holds_shows(devices: Devices, gpu: DeviceInfo) -> None:
    before = reading(devices, gpu)
    program = "import torch; held = torch.empty(2**30, dtype=torch.uint8, device='cuda'); print('held'); input()"
    environment = environ | devices.launch(gpu, None).environment
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        during = reading(devices, gpu)
        process.kill()
    context_bytes = during.used_bytes - before.used_bytes - GIB
    assert 100 * 1024**2 < context_bytes < GIB
    assert len(during.processes) > len(before.processes) or not during.processes  # none: in a container


def test_the_cap_holds(devices: Devices, gpu: DeviceInfo, run_python: RunPython) -> None:
    """With a limit of 3 GiB, context included, one GiB can be had and three can't."""
    launch = devices.launch(gpu, 3 * GIB)
    program = f"""
import torch
from trainer.memory.choice import open_device
device = open_device({launch.device!r})
with device.accounting():
    one = torch.empty(2**30, dtype=torch.uint8, device=device.torch_device)
    try:
        torch.empty(2**31, dtype=torch.uint8, device=device.torch_device)
    except torch.OutOfMemoryError:
        print("refused")
"""
    assert run_python(launch, "-c", program).stdout == "refused\n"
