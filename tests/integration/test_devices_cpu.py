"""The host's memory as a device: what trainers hold is found by the mark that their launch gives them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.devices.choice import open_devices
from scheduler.devices.cpu import CpuDevices, parse_budget
from scheduler.devices.host_cores import usable_cores
from scheduler.devices.host_memory import HostMemory, read_host_memory
from scheduler.errors import UsageError
from scheduler.footprint.context import CPU_CONTEXT_BYTES

GIB = 1024**3
MIB = 1024**2


def devices(*, available_bytes: int = 64 * GIB, host: str = "here") -> CpuDevices:
    memory = HostMemory(total_bytes=64 * GIB, available_bytes=available_bytes)
    return CpuDevices(4 * GIB, host=host, clock=lambda: 7.0, host_memory=lambda: memory)


@contextmanager
def trainer(cpu: CpuDevices, *, holds_bytes: int) -> Iterator[int]:
    """A process started as the device says, that has touched so much memory when this returns its pid."""
    environment = os.environ | cpu.launch(cpu.discover()[0], None).environment
    program = f"held = b'1' * {holds_bytes}; print('ready', flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_trainers_are_found_and_others_are_not() -> None:
    cpu = devices()
    with trainer(cpu, holds_bytes=50 * MIB) as pid, trainer(devices(host="elsewhere"), holds_bytes=1):
        (reading,) = cpu.read()
    ((found, resident),) = reading.processes
    assert found == pid
    assert 50 * MIB < resident < 90 * MIB
    assert reading.used_bytes == resident
    assert cpu.read()[0].processes == ()


def test_other_programs_count_once_less_than_the_budget_is_left() -> None:
    assert devices(available_bytes=5 * GIB).read()[0].used_bytes == 0
    assert devices(available_bytes=3 * GIB).read()[0].used_bytes == GIB


def test_launch_hides_the_gpus() -> None:
    cpu = devices()
    launch = cpu.launch(cpu.discover()[0], GIB)
    assert launch.device == {"kind": "cpu", "limit_bytes": GIB, "context_bytes": CPU_CONTEXT_BYTES}
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert int(launch.environment["OMP_NUM_THREADS"]) == usable_cores()


def test_the_budget_is_what_was_said_or_half_the_host(tmp_path: Path) -> None:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path), "MMQ_HOST": "box"})
    (info,) = open_devices("cpu:3GiB", settings).discover()
    assert (info.id, info.total_bytes) == ("cpu@box", 3 * GIB)
    (info,) = open_devices("cpu", settings).discover()
    assert info.total_bytes == read_host_memory().total_bytes // 2


@pytest.mark.parametrize("text", ["0", "much"])
def test_a_wrong_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"cpu:{text}"):
        parse_budget(text)


def host(root: Path, *, cgroup: str, files: dict[str, str]) -> HostMemory:
    """A host of 32 GiB, 20 of them available, with these files."""
    meminfo = f"MemTotal: {32 * MIB} kB\nMemAvailable: {20 * MIB} kB\nHugePages_Total: 0\n"
    everything = files | {"proc/meminfo": meminfo, "proc/self/cgroup": cgroup}
    for name, text in everything.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return read_host_memory(root=root)


def test_the_tightest_cgroup_around_us_is_the_limit(tmp_path: Path) -> None:
    memory = host(
        tmp_path,
        cgroup="0::/box/job\n",
        files={
            "sys/fs/cgroup/box/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/box/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/box/memory.stat": f"anon 1\ninactive_file {GIB}\n",  # the kernel gives it back
            "sys/fs/cgroup/box/job/memory.max": "max\n",
            "sys/fs/cgroup/box/job/memory.current": "0\n",
        },
    )
    assert memory == HostMemory(total_bytes=8 * GIB, available_bytes=4 * GIB)


def test_the_first_version_of_cgroups(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/1"
    memory = host(
        tmp_path,
        cgroup="5:cpu:/x\n4:memory:/docker/1\n0::/\n",
        files={f"{group}/memory.limit_in_bytes": f"{2 * GIB}", f"{group}/memory.usage_in_bytes": f"{GIB}"},
    )
    assert memory == HostMemory(total_bytes=2 * GIB, available_bytes=GIB)


def test_without_a_cgroup_limit_the_host_is_the_limit(tmp_path: Path) -> None:
    memory = host(tmp_path, cgroup="0::/\n", files={"sys/fs/cgroup/memory.stat": ""})
    assert memory == HostMemory(total_bytes=32 * GIB, available_bytes=20 * GIB)
