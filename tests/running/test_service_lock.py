"""Who holds a service's lock: the one that has it now, never the one before, whatever the file still says."""

import fcntl
import subprocess
import sys
import threading
from dataclasses import asdict
from json import dumps
from pathlib import Path

from scheduler.config import Settings
from scheduler.service.lock import Holder, ServiceLock, holder
from scheduler.service.up import _as_before, _chosen_again
from tests.running.stage import until


def left_by_the_one_before(path: Path) -> Holder:
    """A lock file as a service leaves it that was ready, and is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    before = Holder(pid=gone.pid, started=1, since=0.0, ready=True)
    path.write_text(dumps(asdict(before)))
    return before


def test_the_one_before_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "service.lock"
    left_by_the_one_before(path)
    with path.open("r+") as taken:  # by one that has not written yet
        fcntl.flock(taken, fcntl.LOCK_EX)
        assert holder(path) is None


def test_the_new_holder_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "service.lock"
    before = left_by_the_one_before(path)
    found: list[Holder | None] = []
    with path.open("r+") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        asking = threading.Thread(target=lambda: found.append(holder(path)))
        asking.start()
        lock = ServiceLock(taken.fileno(), "auto")
        asking.join()
        lock.write_state(ready=True)
        assert found[0] is not None
        assert (found[0].pid, found[0].ready) != (before.pid, True)
        until(lambda: (now := holder(path)) is not None and now.ready)


def test_a_lock_that_nobody_holds_has_no_holder(tmp_path: Path) -> None:
    left_by_the_one_before(tmp_path / "service.lock")
    assert holder(tmp_path / "service.lock") is None


def test_what_the_last_service_was_told_holds_until_somebody_says_otherwise(tmp_path: Path) -> None:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path)})
    assert _as_before(settings, {}) is None  # there was none
    lock = ServiceLock.take(settings.service_lock, "virtual:2x1GiB")
    assert lock is not None
    lock.release()
    assert _as_before(settings, {}) == "virtual:2x1GiB"
    assert "virtual:2x1GiB; `mmq up --devices auto` changes that" in _chosen_again("virtual:2x1GiB", settings)
    assert _as_before(settings, {"MMQ_DEVICES": "cpu"}) is None
    settings.service_lock.write_text("{")
    assert _as_before(settings, {}) is None
