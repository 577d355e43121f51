"""A child of the service that ends again and again: nothing of it may be left in the supervisor."""

import os
import sys
import time
from pathlib import Path

import pytest

from scheduler.service.child import Child, Role


@pytest.fixture
def lock(tmp_path: Path):
    descriptor = os.open(tmp_path / "children", os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


def role(folder: Path, code: str) -> Role:
    return Role(
        name="toy",
        command=(sys.executable, "-c", code),
        environment={},
        directory=folder,
        log=folder / "toy.log",
        is_ready=lambda pid: False,
    )


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def tend_until(child: Child, failures: int) -> None:
    deadline = time.monotonic() + 60
    while child.failures < failures:
        assert time.monotonic() < deadline
        child.tend()
        time.sleep(0.005)


def test_restarts_leave_no_descriptor_open(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.service.child.FIRST_PAUSE_SECONDS", 0.0)
    child = Child(role(tmp_path, "raise SystemExit(3)"), lambda line: None, lock)
    tend_until(child, 1)
    before = descriptors()
    tend_until(child, 4)
    assert descriptors() == before
