"""The kernel's OOM killer is recognised by what the kernel writes and counts; by files like its own here."""

import os
from pathlib import Path

import pytest

from worker.oomkiller import RECENT_SECONDS, KernelFiles, OomKiller, named_in_log

PID, TICKS = 4711, os.sysconf("SC_CLK_TCK")
KILLED = (
    "Memory cgroup out of memory: Killed process {pid} (python) total-vm:9437184kB, anon-rss:6291456kB, file-rss:0kB, "
    "shmem-rss:0kB, UID:1000 pgtables:1kB oom_score_adj:0"
)


class Kernel:
    """What a kernel would have in /proc, /sys/fs/cgroup and /dev/kmsg."""

    def __init__(self, root: Path) -> None:
        self.now = 1000.0
        self.files = KernelFiles(proc=root / "proc", cgroups=root / "cgroup", log=root / "kmsg")
        self.group = root / "cgroup/user.slice"
        (root / f"proc/{PID}").mkdir(parents=True)
        self.group.mkdir(parents=True)
        (root / f"proc/{PID}/cgroup").write_text("0::/user.slice\n")
        self.count(host=3)

    def count(self, *, host: int | None = None, group: int | None = None) -> None:
        if host is not None:
            (self.files.proc / "vmstat").write_text(f"nr_free_pages 7\noom_kill {host}\nballoon_inflate 0\n")
        if group is not None:
            (self.group / "memory.events").write_text(f"low 0\noom 1\noom_kill {group}\noom_group_kill 0\n")

    def write(self, pid: int, *, seconds: float) -> None:
        with self.files.log.open("a") as log:
            log.write(f"3,812,{int(seconds * 1e6)},-;{KILLED.format(pid=pid)}\n SUBSYSTEM=none\n")

    def watch(self) -> OomKiller:
        return OomKiller(PID, 100 * TICKS, self.files, lambda: self.now)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_where_nothing_was_killed_there_is_no_evidence(kernel: Kernel) -> None:
    assert kernel.watch().evidence() is None


def test_the_log_that_names_the_process_is_enough(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.write(PID, seconds=200.0)
    assert watch.evidence() == f"its log names process {PID}, which held 6.0 GiB"


def test_another_process_and_an_older_one_of_the_same_number_are_not_meant(kernel: Kernel) -> None:
    kernel.write(PID + 1, seconds=200.0)
    assert named_in_log(kernel.files.log, PID, 100 * TICKS) is None
    kernel.write(PID, seconds=50.0)
    assert named_in_log(kernel.files.log, PID, 100 * TICKS) is None


def test_the_host_s_count_that_rose_just_now_counts_where_the_group_has_none(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.now += 1
    kernel.count(host=4)
    watch.look()  # it was killed, and is still dying
    kernel.now += 5
    told = watch.evidence()
    assert told is not None
    assert "vmstat counts one more" in told


def test_what_was_killed_long_before_the_end_was_somebody_else(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.count(host=4)
    for _ in range(60):
        kernel.now += RECENT_SECONDS / 10
        watch.look()
    assert watch.evidence() is None


def test_the_group_s_own_count_is_believed_before_the_host_s(kernel: Kernel) -> None:
    kernel.count(group=0)
    watch = kernel.watch()
    kernel.count(host=9)
    assert watch.evidence() is None
    kernel.count(group=1)
    told = watch.evidence()
    assert told is not None
    assert "user.slice/memory.events" in told


def test_a_process_moved_to_another_group_is_counted_there_and_a_dying_one_where_it_was(kernel: Kernel) -> None:
    """Of a process that is on its way out the first form of groups says that it is in none."""
    kernel.count(group=0)
    watch = kernel.watch()
    other = kernel.files.cgroups / "memory/jobs/memory.oom_control"
    for counter, count in ((other, 4), (kernel.files.cgroups / "memory/memory.oom_control", 7)):
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")
    (kernel.files.proc / f"{PID}/cgroup").write_text("4:memory:/jobs\n")
    for _ in range(2):
        kernel.now += RECENT_SECONDS + 1
        watch.look()
    kernel.count(group=1)  # where it no longer is
    assert watch.evidence() is None
    other.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    (kernel.files.proc / f"{PID}/cgroup").write_text("4:memory:/\n")
    assert "jobs/memory.oom_control" in (watch.evidence() or "")


def test_a_group_that_is_removed_after_it_counted_is_evidence_still(kernel: Kernel) -> None:
    kernel.count(group=0)
    watch = kernel.watch()
    kernel.count(group=1)
    watch.look()
    (kernel.files.proc / f"{PID}/cgroup").unlink()
    for counter in kernel.files.cgroups.rglob("memory.events"):
        counter.unlink()
    assert "memory.events" in (watch.evidence() or "")


def test_a_kernel_with_the_first_form_of_groups_is_read_too(kernel: Kernel) -> None:
    (kernel.files.proc / f"{PID}/cgroup").write_text("9:name=systemd:/\n4:cpu,memory:/jobs\n0::/\n")
    counter = kernel.files.cgroups / "memory/jobs/memory.oom_control"
    counter.parent.mkdir(parents=True)
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    watch = kernel.watch()
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert "memory.oom_control" in (watch.evidence() or "")


def test_files_that_are_missing_or_odd_are_no_evidence(kernel: Kernel, tmp_path: Path) -> None:
    kernel.files.log.write_bytes(b"\xff\xfe\0Killed process (\n" * 50)
    (kernel.files.proc / "vmstat").write_text("oom_kill many\n")
    (kernel.files.proc / f"{PID}/cgroup").write_text("odd\n0\n")
    assert kernel.watch().evidence() is None
    nowhere = KernelFiles(proc=tmp_path / "no", cgroups=tmp_path / "no", log=tmp_path / "no")
    assert OomKiller(PID, 0, nowhere).evidence() is None
