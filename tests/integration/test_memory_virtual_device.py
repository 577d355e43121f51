"""Virtual devices in real processes: one ledger, several holders, refusals and sudden deaths."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from trainer.memory.choice import open_device
from trainer.memory.device import Device
from trainer.memory.ledger import Ledger

MIB = 1024**2
HOLDER = """
import sys
from pathlib import Path
from trainer.memory.ledger import Ledger
held = Ledger(Path(sys.argv[1]), total_bytes=int(sys.argv[2]), limit_bytes=None).take(int(sys.argv[3]))
print("holds" if held else "refused", flush=True)
sys.stdin.read()
"""


def virtual(ledger: Path, *, total: int = 100 * MIB, limit: int | None = None) -> Device:
    return open_device(
        {
            "kind": "virtual",
            "ledger": str(ledger),
            "total_bytes": total,
            "context_bytes": 8 * MIB,
            "limit_bytes": limit,
        }
    )


@contextmanager
def holder(ledger: Path, size_bytes: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that has asked for so much of a device of 100 MiB."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ledger), str(100 * MIB), str(size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def held_bytes(ledger: Path) -> int:
    return sum(int(path.read_text()) for path in ledger.glob("[0-9]*-*"))


def test_holds_context_and_segments_as_cuda_would(tmp_path: Path) -> None:
    device = virtual(tmp_path)
    assert held_bytes(tmp_path) == 8 * MIB
    with device.accounting():
        tensor = torch.empty(5 * MIB, dtype=torch.uint8)
        assert held_bytes(tmp_path) == 28 * MIB
        peaks = device.peaks()
        assert (peaks.allocated_bytes, peaks.reserved_bytes, peaks.process_bytes) == (
            5 * MIB,
            20 * MIB,
            28 * MIB,
        )
        del tensor
        assert held_bytes(tmp_path) == 28 * MIB
        device.empty_cache()
        assert held_bytes(tmp_path) == 8 * MIB


def test_refuses_beyond_the_limit_and_goes_on(tmp_path: Path) -> None:
    device = virtual(tmp_path, limit=30 * MIB)
    with device.accounting():
        kept = torch.empty(12 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError, match=r"allocate 12\.00 MiB.*12\.00 MiB is alloc.*30\.00"):
            torch.empty(12 * MIB, dtype=torch.uint8)
        assert torch.empty(10 * MIB, dtype=torch.uint8).nbytes < kept.nbytes
    assert device.peaks().process_bytes == 30 * MIB


def test_a_context_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with holder(tmp_path, 95 * MIB) as other:
        assert said(other) == "holds"
        with pytest.raises(torch.OutOfMemoryError, match=r"allocate 8\.00 MiB"):
            virtual(tmp_path)


def test_what_another_process_holds_cannot_be_taken_until_it_dies(tmp_path: Path) -> None:
    device = virtual(tmp_path)
    with holder(tmp_path, 60 * MIB) as other, device.accounting():
        assert said(other) == "holds"
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(40 * MIB, dtype=torch.uint8)
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        assert torch.empty(40 * MIB, dtype=torch.uint8).nbytes == 40 * MIB


def test_a_killed_holder_gives_back_even_before_it_is_reaped(tmp_path: Path) -> None:
    with holder(tmp_path, 90 * MIB) as other:
        assert said(other) == "holds"
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # now a zombie
        assert Ledger(tmp_path, total_bytes=100 * MIB, limit_bytes=None).take(90 * MIB)


def test_we_hold_and_the_other_is_refused(tmp_path: Path) -> None:
    device = virtual(tmp_path)
    with device.accounting():
        kept = torch.empty(50 * MIB, dtype=torch.uint8)
        with holder(tmp_path, 43 * MIB) as other:
            assert said(other) == "refused"
        with holder(tmp_path, 42 * MIB) as other:
            assert said(other) == "holds"
        assert kept.nbytes == 50 * MIB


def test_a_live_foreign_entry_counts_and_a_dead_one_does_not(tmp_path: Path) -> None:
    init_ticks = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / f"1-{init_ticks}").write_text(str(70 * MIB))
    (tmp_path / f"1-{int(init_ticks) + 1}").write_text(str(90 * MIB))  # an earlier owner of that pid
    ledger = Ledger(tmp_path, total_bytes=100 * MIB, limit_bytes=None)
    assert not ledger.take(31 * MIB)
    assert ledger.take(30 * MIB)
    assert held_bytes(tmp_path) == 100 * MIB  # the dead entry was swept


def test_the_scheduler_reads_what_the_trainer_writes(tmp_path: Path) -> None:
    from scheduler.devices.ledger import read_ledger

    device = virtual(tmp_path)
    with device.accounting():
        kept = torch.empty(30 * MIB, dtype=torch.uint8)
        assert read_ledger(tmp_path).processes == ((os.getpid(), 38 * MIB),)
        assert kept.nbytes == 30 * MIB
