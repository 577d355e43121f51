"""The first CUDA device of this machine, and programs run on it as a trainer would be."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.devices.choice import open_devices
from scheduler.devices.device import DeviceInfo, Devices, Launch

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Devices]:
    opened = open_devices("cuda", Settings.from_environment({"MMQ_HOME": str(tmp_path)}))
    yield opened
    opened.close()


@pytest.fixture
def gpu(devices: Devices) -> DeviceInfo:
    return devices.discover()[0]


@pytest.fixture
def run_python() -> RunPython:
    """Run Python with these arguments in the environment of a launch; fail on another exit code than 0."""

    def run(launch: Launch, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | launch.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    return run
