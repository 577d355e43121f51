"""What a service without work costs: the memory and the CPU time of all its processes, the broker included.

Memory is PSS: a page that several processes share is counted once. The baseline is one bare interpreter. Prints a
table, then a line a bar. `make bench-idle` runs it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import MIB, Bar, environment, judged, machine, service

SETTLE_SECONDS = 10.0
WATCH_SECONDS = 30.0
BARE = "import time; print(flush=True); time.sleep(600)"


class Use(NamedTuple):
    name: str
    rss_bytes: int
    pss_bytes: int
    cpu_seconds: float  # so far


def main() -> int:
    print(f"no jobs, watched for {WATCH_SECONDS:.0f} s; {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        before, after, bare = _watched(Path(folder))
    print(f"{'process':<34}{'RSS MiB':>9}{'PSS MiB':>9}{'CPU ms':>9}")
    for pid, use in [*after.items(), (None, bare)]:
        spent = "" if pid is None else f"{(use.cpu_seconds - before[pid].cpu_seconds) * 1000:.0f}"
        print(f"{use.name:<34}{use.rss_bytes / MIB:>9.1f}{use.pss_bytes / MIB:>9.1f}{spent:>9}")
    spent_seconds = sum(use.cpu_seconds - before[pid].cpu_seconds for pid, use in after.items())
    return judged(
        [
            Bar("idle_rss_mb", sum(use.rss_bytes for use in after.values()) / 1e6, 250.0),
            Bar("idle_pss_mb", sum(use.pss_bytes for use in after.values()) / 1e6, 250.0),
            Bar("idle_cpu_percent_of_a_core", 100 * spent_seconds / WATCH_SECONDS, 1.0),
        ]
    )


def _watched(folder: Path) -> tuple[dict[int, Use], dict[int, Use], Use]:
    """The processes' use at both ends of the time, and a bare interpreter's."""
    surroundings = environment(folder / "home")
    with (
        service(surroundings, "virtual:1x2GiB") as supervisor,
        subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE) as bare,
    ):
        time.sleep(SETTLE_SECONDS)
        pids = _family(supervisor)
        before = {pid: _use(pid) for pid in pids}
        time.sleep(WATCH_SECONDS)
        if _family(supervisor) != pids:
            raise RuntimeError("the service's processes changed while they were watched: see its logs")
        after = {pid: _use(pid) for pid in pids}
        least = _use(bare.pid)._replace(name="(a bare interpreter)")
        bare.kill()
    return before, after, least


def _family(pid: int) -> list[int]:
    """A process and all that it started, and they started."""
    tasks = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    return [pid, *(one for path in tasks for child in path.read_text().split() for one in _family(int(child)))]


def _use(pid: int) -> Use:
    process = Path(f"/proc/{pid}")
    words = (process / "cmdline").read_text().rstrip("\0").split("\0")
    sizes = {line.split(":")[0]: line.split()[1] for line in (process / "smaps_rollup").read_text().splitlines()[1:]}
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return Use(
        name=" ".join(word.rpartition("/")[2] for word in words if word not in ("-P", "-m"))[:32],
        rss_bytes=int(sizes["Rss"]) * 1024,
        pss_bytes=int(sizes["Pss"]) * 1024,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    )


if __name__ == "__main__":
    sys.exit(main())
