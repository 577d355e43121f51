"""A home in which the real service runs, on virtual devices: commands as they are typed, real trainers, real kills.

Owns every process that it lets start, and leaves none behind.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from scheduler.config import Settings
from scheduler.jobs.states import JobState
from scheduler.processes.locks import holders
from scheduler.service.lock import holder
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from tests.faults.invariants import trainer_processes
from tests.processes import PATIENCE_SECONDS, children_of, gone, is_stopped, kill, until

REPOSITORY = Path(__file__).parents[2]
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "vocab_size": 300,
}
SLOWLY = ("-o", "data.row_wait_seconds=0.005")  # of each of the 8 rows of a step: for a job that is to be met alive
WORDS = "a trainer reads a row of words and learns which word comes next in each of its many rows".split()


class Done(NamedTuple):
    code: int
    out: str
    err: str


def shell(line: str, root: Path, environment: Mapping[str, str]) -> Done:
    """Run a line of shell in which `$MMQ` is the command, in a process of its own."""
    told = {**environment, "MMQ": f"{sys.executable} -m scheduler"}
    done = subprocess.run(
        ["sh", "-c", line], cwd=root, env=told, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Workplace:
    """`root` holds the home, the job files and their rows."""

    def __init__(self, root: Path, devices: str, **environment: str) -> None:
        self.root = root
        self.home = root / "home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MMQ_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environment = kept | {
            "MMQ_HOME": str(self.home),
            "MMQ_HOST": "here",
            "MMQ_DEVICES": devices,
            "PYTHONPATH": str(REPOSITORY),
            **environment,
        }
        self.settings = Settings.from_environment(self.environment)
        draw = random.Random(7)
        self.rows = self.write_rows("rows.jsonl", [" ".join(draw.choices(WORDS, k=30)) for _ in range(64)])
        self.job_file("tiny")

    @cached_property
    def undisturbed(self) -> dict[int, float]:
        """The loss of each step of `tiny` when nothing happens to it."""
        job = self.submit()
        assert self.until_ended(job) == ["succeeded"]
        return self.losses(job)

    def write_rows(self, name: str, texts: list[str]) -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    def job_file(self, name: str, **sections: Mapping[str, Any]) -> Path:
        """Write NAME.yaml: 120 steps of 8 rows, each told, saved every thirtieth; sections are merged into it."""
        job: dict[str, Any] = {
            "kind": "pretrain",
            "name": name,
            "model": MODEL,
            "data": {"path": "rows.jsonl", "max_seq_len": 32},
            "train": {
                "max_steps": 120,
                "batch_size": 8,
                "accumulation_steps": 1,
                "dtype": "float32",
                "log_interval": 1,
                "save_interval": 30,
            },
        }
        for section, values in sections.items():
            job[section] = job.get(section, {}) | values
        path = self.root / f"{name}.yaml"
        path.write_text(json.dumps(job, indent=1))  # JSON is YAML
        return path

    def start(self, *words: str, command: tuple[str, ...] = ("-m", "scheduler")) -> "subprocess.Popen[str]":
        """Type a command, and don't wait for it."""
        return subprocess.Popen(
            [sys.executable, *command, *words],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def mmq(self, *words: str) -> Done:
        """Type a command."""
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return Done(process.returncode, out, err)

    def ok(self, *words: str) -> str:
        """Type a command that must succeed; what it printed."""
        done = self.mmq(*words)
        assert done.code == 0, done
        return done.out

    def shell(self, line: str) -> Done:
        return shell(line, self.root, self.environment)

    def submit(self, *words: str) -> int:
        return int(self.ok("submit", *(words or ("tiny.yaml",))))

    def story(self, job: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", str(job), "--json"))["jobs"][0]
        return found

    @contextmanager
    def store(self) -> Iterator[Database]:
        with closing(open_database(self.settings, lean=True)) as database:
            yield database

    def query(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        with self.store() as database:
            return database.query(sql, **parameters)

    def state(self, job: int) -> str:
        return str(self.query("SELECT state FROM jobs WHERE id = :job", job=job)[0]["state"])

    def until_state(self, job: int, *states: str) -> None:
        until(lambda: self.state(job) in states, f"job {job} is {' or '.join(states)}")

    def until_ended(self, *jobs: int, within_seconds: float = PATIENCE_SECONDS) -> list[str]:
        """Wait for the jobs' ends: their states."""
        for job in jobs:
            until(
                lambda job=job: JobState(self.state(job)).ended, f"the end of job {job}", within_seconds=within_seconds
            )
        return [self.state(job) for job in jobs]

    def events(self, job: int, kind: str | None = None) -> list[dict[str, Any]]:
        """What the trainer wrote, whole lines only."""
        path = self.settings.run_dir(job) / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in found if kind in (None, event["event"])]

    def steps(self, job: int) -> list[int]:
        return [event["step"] for event in self.events(job, "step")]

    def until_steps(self, job: int, more: int) -> int:
        """Wait until the trainer has told of so many more steps than now; its pid."""
        wanted = len(self.steps(job)) + more
        until(lambda: len(self.steps(job)) >= wanted, f"step {wanted} of job {job}")
        return self.trainer(job)

    def trainer(self, job: int) -> int:
        return int(self.events(job, "started")[-1]["pid"])

    def losses(self, job: int) -> dict[int, float]:
        """The loss of each step; of one run twice, the later."""
        return {event["step"]: event["loss"] for event in self.events(job, "step")}

    def assert_made_way(self, job: int, urgent: int, undisturbed: int) -> None:
        """The job saved and stopped for the urgent one, came back after it, and made each step once."""
        first, second = self.story(job)["attempts"]
        assert (first["reason"], first["preempted_for"], second["reason"]) == ("stopped", urgent, "done")
        assert self.query("SELECT crash_retries FROM jobs WHERE id = :job", job=job) == [{"crash_retries": 0}]
        ended, urgent_ended = second["ended_at"], self.story(urgent)["attempts"][-1]["ended_at"]
        assert first["ended_at"] < urgent_ended < ended
        left, came_back = (event["step"] for event in self.events(job, "started"))
        assert left == 0 < came_back
        assert self.steps(job) == self.steps(undisturbed)  # not one of them twice

    def known_shim(self, job: int) -> int:
        """The shim that the store knows of."""
        return int(self.query("SELECT shim_pid FROM attempts WHERE job_id = :job", job=job)[0]["shim_pid"])

    def shim(self, job: int) -> int:
        lock = self.settings.run_dir(job) / "shim.lock"
        until(lambda: len(holders(lock)) == 1)  # a child of the shim's holds it too, until it runs a program of its own
        return holders(lock)[0]

    def up(self) -> str:
        return self.ok("up", "--detach")

    def service(self) -> int:
        """The supervisor's pid."""
        found = holder(self.settings.service_lock)
        assert found is not None, "no service runs"
        return found.pid

    def children(self) -> dict[str, int]:
        """The service's own processes by name."""
        return children_of(self.service())

    def child(self, name: str) -> int:
        """One of them, also where it is just started again."""
        return until(lambda: self.children().get(name), f"the {name}")

    @contextmanager
    def halted(self, pid: int) -> Iterator[None]:
        """Let a process stand still; not in the middle of a write, which would keep the store locked for everybody."""
        until(lambda: self._halts_between_writes(pid), f"{pid} between two writes")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _halts_between_writes(self, pid: int) -> bool:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: is_stopped(pid), f"{pid} stopped")
        with closing(sqlite3.connect(self.settings.home / "mmq.db", timeout=2)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                return False
            return True

    def until_ready(self) -> None:
        """Wait until the service says that all of it is up."""
        until(lambda: (found := holder(self.settings.service_lock)) is not None and found.ready, "the service is ready")

    def crash(self) -> None:
        """Kill -9 all there is, jobs too, as a dying machine would."""
        pids = {self.service(), *self.children().values(), *self.job_processes()}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: all(map(gone, pids)), "the end of everything")

    def job_processes(self) -> set[int]:
        """Shims and trainers."""
        locks = [job / lock for job in self.settings.jobs_dir.glob("*") for lock in ("shim.lock", "lock")]
        return {pid for lock in locks for pid in holders(lock)}

    def end_jobs(self) -> None:
        """Cancel whatever has not ended, and wait for it."""
        rows = self.query("SELECT id FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')")
        if rows:
            self.mmq("cancel", ",".join(str(row["id"]) for row in rows))
            self.until_ended(*(row["id"] for row in rows))

    def close(self) -> None:
        """Leave no process behind, however the test went."""
        if (found := holder(self.settings.service_lock)) is not None:
            everybody = (found.pid, *children_of(found.pid).values())
            for number, pids in ((signal.SIGCONT, everybody), (signal.SIGTERM, everybody[:1])):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            until(lambda: all(map(gone, everybody)), "the service's end")
        until(self._no_job_is_left, "the end of all jobs")

    def _no_job_is_left(self) -> bool:
        """Kill who is left: one that is killed may just have started another."""
        pids = self.job_processes() | {pid for pid, _ in trainer_processes(self.settings)}
        for pid in pids:
            kill(pid)
        return not pids


@contextmanager
def workplace(devices: str = "virtual:2x256MiB", **environment: str) -> Iterator[Workplace]:
    """A workplace of its own, in a directory with a short name: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="mmq-") as root:
        place = Workplace(Path(root), devices, **environment)
        try:
            yield place
        finally:
            place.close()
