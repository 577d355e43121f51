"""Real processes: who lives, who holds a lock, whom a signal reaches."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from scheduler.processes.liveness import boot_id, group_members, process_started, same_process
from scheduler.processes.locks import holders, lock_held, take_lock
from scheduler.processes.signalling import send, send_each
from tests.processes import until


def test_a_living_process_has_a_start_and_a_dead_one_has_none() -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = process_started(child.pid)
    assert started is not None
    assert same_process(child.pid, started, boot_id())
    child.kill()
    until(lambda: process_started(child.pid) is None)  # nobody has waited for it: it is a zombie
    assert Path(f"/proc/{child.pid}").exists()
    child.wait()
    assert process_started(child.pid) is None


def test_a_reused_pid_and_another_boot_are_strangers() -> None:
    started = process_started(os.getpid())
    assert started is not None
    assert not same_process(os.getpid(), started - 1, boot_id())
    assert not same_process(os.getpid(), started, "another-boot")
    assert not same_process(None, None, boot_id())


def test_a_process_name_can_not_confuse() -> None:
    code = "open('/proc/self/comm', 'w').write(') Z 1 (('); print('ready', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert process_started(child.pid) is not None
    child.communicate(b"\n")


def test_a_lock_is_held_as_long_as_a_heir_of_it_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not lock_held(path)
    with path.open("w") as ours:
        assert not lock_held(path)
        fcntl.flock(ours, fcntl.LOCK_EX)
        heir = subprocess.Popen(["sleep", "60"], pass_fds=[ours.fileno()])
    assert lock_held(path)
    with path.open():
        assert holders(path) == [heir.pid]
    heir.kill()
    heir.wait()
    assert not lock_held(path)
    assert holders(path) == []


def test_members_of_a_group_are_found() -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], process_group=0)
    session = os.getsid(0)
    until(lambda: len(group_members(leader.pid, session)) == 3)
    os.killpg(leader.pid, 9)
    leader.wait()
    until(lambda: not group_members(leader.pid, session))


def test_a_lock_is_taken_once_and_probers_do_not_hinder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = take_lock(path)
    assert first is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert take_lock(path, patience_seconds=0) is None
    os.close(first)
    with path.open() as prober:
        fcntl.flock(prober, fcntl.LOCK_SH)
        assert take_lock(path, patience_seconds=0) is None
    again = take_lock(path)
    assert again is not None
    os.close(again)


def test_a_signal_reaches_the_process_that_was_meant_and_no_other() -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = process_started(child.pid)
    assert started is not None
    assert not send(child.pid, started - 1, signal.SIGKILL)
    assert not send(child.pid, None, signal.SIGKILL)
    looks = iter([{child.pid, 1 << 30}, set()])  # found, and a moment later no longer one of those
    assert send_each(lambda: next(looks), signal.SIGKILL) == set()
    assert child.poll() is None
    assert send(child.pid, started, signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    assert not send(child.pid, started, signal.SIGKILL)
