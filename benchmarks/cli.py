"""How long `mmq status` and `mmq submit` take with 10,000 jobs, against the least that Python needs.

Rounds are interleaved, so that all three meet the same load of the machine; medians are compared. Prints a table, then
a line a bar: name, value, limit, ok or short. Exit code 1 if a bar is not reached. `make bench-cli` runs it.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from scheduler.config import Settings
from scheduler.store.opening import open_database

JOBS = 10_000
ROUNDS = 25
LIMITS = {"status": 1.6, "submit": 2.5}  # times the floor
JOB_FILE = "kind: pretrain\ndata: {path: rows.jsonl}\ntrain: {max_steps: 10}\n"
SCRIPT = "import sys\nfrom scheduler.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        seconds = _measured(Path(folder))
    floor = statistics.median(seconds["floor"])
    print(f"{JOBS:,} jobs, {ROUNDS} interleaved rounds, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{'command':<28}{'median ms':>10}{'fastest ms':>12}{'x floor':>9}")
    for name, shown in (("floor", "import click, sqlite3"), ("status", "mmq status"), ("submit", "mmq submit FILE")):
        median, fastest = statistics.median(seconds[name]), min(seconds[name])
        print(f"{shown:<28}{median * 1000:>10.1f}{fastest * 1000:>12.1f}{median / floor:>9.2f}")
    print()
    short = False
    for name, limit in LIMITS.items():
        ratio = statistics.median(seconds[name]) / floor
        short = short or ratio > limit
        print(f"{name}_over_floor {ratio:.2f} {limit} {'short' if ratio > limit else 'ok'}")
    return int(short)


def _measured(folder: Path) -> dict[str, list[float]]:
    """Seconds of each command in each round, after one round to warm the caches and compile the byte code."""
    environment = _environment(folder)
    command = _mmq(folder)
    (folder / "job.yaml").write_text(JOB_FILE)
    (folder / "rows.jsonl").write_text('{"text": "one"}\n' * 100)
    commands = {
        "floor": [sys.executable, "-c", "import click, sqlite3"],
        "status": [*command, "status"],
        "submit": [*command, "submit", str(folder / "job.yaml")],
    }
    subprocess.run(commands["submit"], env=environment, check=True, capture_output=True)
    _fill(Settings.from_environment(environment))
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):
        for name, arguments in commands.items():
            began = time.perf_counter()
            subprocess.run(arguments, env=environment, check=True, capture_output=True)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MMQ_") and k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"MMQ_HOME": str(folder / "home"), "PYTHONPATH": str(Path(__file__).parent.parent)}


def _mmq(folder: Path) -> list[str]:
    """The installed console script; where there is none, the same lines in a file."""
    script = Path(sys.executable).with_name("mmq")
    if not script.exists():
        script = folder / "mmq"
        script.write_text(SCRIPT)
    return [sys.executable, str(script)]


def _fill(settings: Settings) -> None:
    """Copy the first job until there are enough: nine of ten wait, one of ten has ended."""
    columns = (
        "name, kind, user_name, priority, spec, source, source_path, code_version, effective_batch, gpus,"
        " out_of_memory_retries, crash_retries, submitted_at"
    )
    with closing(open_database(settings, lean=True)) as database, database.transaction() as tx:
        tx.execute(
            f"INSERT INTO jobs ({columns}, state, reason, ended_at, waiting)"
            " WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < :jobs)"
            f" SELECT {columns}, CASE n % 10 WHEN 0 THEN 'succeeded' ELSE 'queued' END,"
            " CASE n % 10 WHEN 0 THEN 'done' END, CASE n % 10 WHEN 0 THEN submitted_at + n END,"
            " 'needs 9.8 GiB; GPU 0 has 7.1 GiB free, job 41 holds 12.0 GiB' FROM numbers, jobs WHERE jobs.id = 1",
            jobs=JOBS,
        )


if __name__ == "__main__":
    sys.exit(main())
