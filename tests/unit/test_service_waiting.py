"""How long `mmq up --detach` waits for a service that does not become ready."""

import subprocess
import time
from typing import cast

import pytest

from scheduler.config import Settings
from scheduler.service import up
from scheduler.service.lock import Holder


class Lives:
    """A process that does not end."""

    def poll(self) -> None:
        return None


def waited(settings: Settings) -> tuple[Holder | None, float]:
    began = time.monotonic()
    service = up._wait_until_ready(settings, cast("subprocess.Popen[bytes]", Lives()))
    return service, time.monotonic() - began


@pytest.mark.parametrize(("failing", "ready_seconds", "least"), [(False, 0.6, 0.6), (True, 60.0, 0.1)])
def test_a_child_that_keeps_ending_shortens_the_time(
    failing: bool, ready_seconds: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Holder(pid=1, started=1, since=0.0, problem="controller: this host has no NVIDIA GPU", failing=failing)
    monkeypatch.setattr(up, "holder", lambda _path: state)
    monkeypatch.setattr(up, "READY_SECONDS", ready_seconds)
    monkeypatch.setattr(up, "FAILING_SECONDS", 0.1)
    service, seconds = waited(Settings.from_environment({"MMQ_HOME": "/nowhere"}))
    assert service == state
    assert least <= seconds < 30
