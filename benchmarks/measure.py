"""What the benchmarks share: commands run in turn, what each of them cost, and the bars they are held against.

A bar against a baseline is a ratio of medians of interleaved rounds, so that both sides meet the same load of the
machine. The fastest of each is printed beside it: what a machine of one's own would show.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MIB = 1 << 20


class Cost(NamedTuple):
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


class Command(NamedTuple):
    arguments: Sequence[str]
    stdin: bytes = b""


class Bar(NamedTuple):
    """Reached if the value is at most the limit, or at least it where more is better."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def missed(self) -> bool:
        return self.value < self.limit if self.at_least else self.value > self.limit


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours, but for what belongs to another mmq, and with byte code compiled."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MMQ_") and k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"MMQ_HOME": str(home), "PYTHONPATH": str(ROOT)} | more


def cost(command: Command, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end; CalledProcessError if it fails."""
    began = time.perf_counter()
    with subprocess.Popen(
        command.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(command.stdin)
        child.stdin.close()
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall_seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command.arguments, said)
    return Cost(wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def in_turns(commands: Mapping[str, Command], environment: Mapping[str, str], *, rounds: int) -> dict[str, list[Cost]]:
    """The cost of each command in each round, after one round to warm the caches and compile the byte code."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            found = cost(command, environment)
            if turn:
                costs[name].append(found)
    return costs


def told(costs: Mapping[str, Sequence[Cost]], baseline: str) -> None:
    """Print the table of costs, each beside the baseline's."""
    width = max(map(len, costs)) + 2
    titles = ("median ms", "fastest ms", "CPU ms", "peak MiB", "x median", "x fastest")
    print(" " * width + "".join(f"{title:>11}" for title in titles))
    floor = costs[baseline]
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # a child begins as a copy of us
    for name, found in costs.items():
        peak_bytes = max(c.peak_bytes for c in found)
        print(
            f"{name:<{width}}{_median(found) * 1000:>11.1f}{_fastest(found) * 1000:>11.1f}"
            f"{statistics.median(c.cpu_seconds for c in found) * 1000:>11.1f}"
            f"{f'{peak_bytes / MIB:.0f}' if peak_bytes > ours else '':>11}"
            f"{over(found, floor):>11.2f}{_fastest(found) / _fastest(floor):>11.2f}"
        )


def over(costs: Sequence[Cost], baseline: Sequence[Cost]) -> float:
    """How many times the baseline's wall time, by medians."""
    return _median(costs) / _median(baseline)


def _median(costs: Iterable[Cost]) -> float:
    return statistics.median(c.wall_seconds for c in costs)


def _fastest(costs: Iterable[Cost]) -> float:
    return min(c.wall_seconds for c in costs)


def judged(bars: Iterable[Bar]) -> int:
    """Print a line a bar: name, value, limit, ok or short. The exit code: 1 if one is not reached."""
    print()
    short = False
    for bar in bars:
        short = short or bar.missed
        print(f"{bar.name} {bar.value:.4g} {bar.limit:g} {'short' if bar.missed else 'ok'}")
    return int(short)


def machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


@contextmanager
def service(environment: Mapping[str, str], devices: str) -> Iterator[int]:
    """A running service, by its pid; stopped, with all its jobs, at the end."""
    mmq = [sys.executable, "-m", "scheduler"]
    log = Path(environment["MMQ_HOME"]).with_suffix(".log")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*mmq, "up", "--devices", devices], env=environment, stdout=output, stderr=output
        ) as supervisor,
    ):
        try:
            wait_for(lambda: b"mmq is up" in log.read_bytes() or supervisor.poll() is not None, "the service to be up")
            if supervisor.returncode is not None:
                raise RuntimeError(f"the service ended at once: {log.read_text()}")
            yield supervisor.pid
        finally:
            subprocess.run([*mmq, "down", "--stop-jobs"], env=environment, check=False, capture_output=True)
            supervisor.terminate()


def wait_for(there: Callable[[], object], what: str, within_seconds: float = 120.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_seconds:.0f} s for {what}")
        time.sleep(0.05)
