"""Virtual devices as real processes leave them: ledgers of living, dead and foreign trainers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.devices.choice import open_devices
from scheduler.devices.ledger import read_ledger
from scheduler.devices.virtual import VirtualDevices
from scheduler.errors import UsageError
from scheduler.processes.liveness import process_started

GIB = 1024**3


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def devices(home: Path) -> VirtualDevices:
    return VirtualDevices(2, 2 * GIB, ledger_dir=home, host="here", clock=lambda: 7.0)


def hold(ledger: Path, pid: int, held: object, *, ticks: int | None = None) -> Path:
    ledger.mkdir(exist_ok=True)
    entry = ledger / f"{pid}-{process_started(pid) if ticks is None else ticks}"
    entry.write_text(str(held))
    return entry


def test_each_device_shows_what_its_own_living_processes_hold(
    tmp_path: Path, other_process: subprocess.Popen[bytes]
) -> None:
    hold(tmp_path / "virtual-0", os.getpid(), GIB)
    hold(tmp_path / "virtual-0", other_process.pid, 5)
    first, second = devices(tmp_path).read()
    assert (first.device_id, second.device_id) == ("virtual-0@here", "virtual-1@here")
    assert first.used_bytes == GIB + 5
    assert dict(first.processes) == {os.getpid(): GIB, other_process.pid: 5}
    assert (second.used_bytes, second.processes, second.error) == (0, (), None)


def test_a_dead_process_and_a_reused_pid_hold_nothing(tmp_path: Path, other_process: subprocess.Popen[bytes]) -> None:
    ledger = tmp_path / "virtual-0"
    hold(ledger, other_process.pid, GIB)
    hold(ledger, os.getpid(), GIB, ticks=1)  # the pid lives, and is another process
    other_process.kill()
    assert other_process.returncode is None  # not reaped: a zombie holds nothing
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)
    assert read_ledger(ledger).processes == ()


def test_a_living_entry_without_a_number_closes_the_device(tmp_path: Path) -> None:
    entry = hold(tmp_path / "virtual-1", os.getpid(), "")
    (tmp_path / "virtual-1" / "lock").touch()
    first, second = devices(tmp_path).read()
    assert first.error is None
    assert second.error is not None
    assert entry.name in second.error


def test_launch_names_the_ledger_that_is_read(tmp_path: Path) -> None:
    virtual = devices(tmp_path)
    info = virtual.discover()[1]
    launch = virtual.launch(info, 123)
    hold(Path(launch.device["ledger"]), os.getpid(), 9)
    assert virtual.read()[1].used_bytes == 9
    assert launch.device["limit_bytes"] == 123
    assert launch.device["total_bytes"] == info.total_bytes == 2 * GIB
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == ""


def test_opened_by_name(tmp_path: Path) -> None:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path), "MMQ_HOST": "box"})
    opened = open_devices("virtual:3x512MiB", settings)
    assert [info.id for info in opened.discover()] == [f"virtual-{n}@box" for n in range(3)]
    assert {info.total_bytes for info in opened.discover()} == {512 * 1024**2}


@pytest.mark.parametrize(
    "spec",
    [
        "virtual:",
        "virtual:0x1GiB",
        "virtual:2x",
        "virtual:2x64MiB",
        "virtual:2xbig",
        "virtual:1GiB",
        "tpu",
        "",
    ],
)
def test_a_wrong_name_is_refused_with_a_hint(tmp_path: Path, spec: str) -> None:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path)})
    with pytest.raises(UsageError) as refusal:
        open_devices(spec, settings)
    assert refusal.value.hint


def test_the_ledger_that_trainers_write_is_the_one_that_is_read(tmp_path: Path) -> None:
    virtual = devices(tmp_path)
    device = virtual.launch(virtual.discover()[0], GIB).device
    program = (
        "import pathlib, sys; from trainer.memory.ledger import Ledger;"
        f"ledger = Ledger(pathlib.Path({device['ledger']!r}), total_bytes={device['total_bytes']}, limit_bytes=None);"
        "taken = [ledger.take(int(line)) for line in sys.stdin.readline().split()];"
        "print(taken, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdin
        assert trainer.stdout
        trainer.stdin.write(b"%d 5 %d\n" % (GIB, 2 * GIB))
        trainer.stdin.flush()
        assert trainer.stdout.readline() == b"[True, True, False]\n"
        assert virtual.read()[0].processes == ((trainer.pid, GIB + 5),)
        trainer.kill()
        trainer.wait()
        assert virtual.read()[0].used_bytes == 0
