"""How long `mmq status` and `mmq submit` take with 10,000 jobs, against the least that Python needs.

Without a service, so that nothing else runs: `make bench-start` has a submit beside one, which answers the doorbell.
Prints a table, then a line a bar: name, value, limit, ok or short; exit code 1 if one is short. `make bench-cli`
runs it.
"""

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Bar, Command, Cost, cost, environment, in_turns, judged, machine, over, told
from scheduler.config import Settings
from scheduler.store.opening import open_database

JOBS = 10_000
ROUNDS = 40
FLOOR, STATUS, SUBMIT = "import click, sqlite3", "mmq status", "mmq submit FILE"
LIMITS = {"status_over_floor": (STATUS, 1.6), "submit_over_floor": (SUBMIT, 2.5)}
JOB_FILE = "kind: pretrain\ndata: {path: rows.jsonl}\ntrain: {max_steps: 10}\n"
SCRIPT = "import sys\nfrom scheduler.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


def main() -> int:
    print(f"{JOBS:,} jobs, {ROUNDS} interleaved rounds, bars on the ratio of medians; {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        costs = _measured(Path(folder))
    told(costs, FLOOR)
    return judged(Bar(name, over(costs[which], costs[FLOOR]), limit) for name, (which, limit) in LIMITS.items())


def _measured(folder: Path) -> dict[str, list[Cost]]:
    surroundings = environment(folder / "home")
    mmq = _mmq(folder)
    (folder / "job.yaml").write_text(JOB_FILE)
    (folder / "rows.jsonl").write_text('{"text": "one"}\n' * 100)
    commands = {
        FLOOR: Command([sys.executable, "-c", "import click, sqlite3"]),
        STATUS: Command([*mmq, "status"]),
        SUBMIT: Command([*mmq, "submit", str(folder / "job.yaml")]),
    }
    cost(commands[SUBMIT], surroundings)
    _fill(Settings.from_environment(surroundings))
    return in_turns(commands, surroundings, rounds=ROUNDS)


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
