"""What is written durably, cut off before each single change of the disk in turn, as SQLite's own tests do.

`python -m tests.faults.walked WORLD DISK SUBJECT HOW`, to be run within that world. A child for each change: it is
killed as it is about to make it, or finds the disk full from there on. HOW "cut" is one child that nothing happens to:
what a cut of the power could take from it is found in the order of its changes. Prints JSON: how many changes were
walked, and what was wrong after any of them.
"""

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from scheduler.errors import MmqError
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, audit, jobs
from scheduler.store.opening import open_database
from tests.faults import power
from tests.faults.world import CHANGES, World
from tests.store.samples import admitted, ends, new_job, settings_at, start, with_device

DONE, REFUSED, CRASHED, KILLED = 0, 7, 9, -9
Tell = Callable[[str], None]  # somebody that a step is done: from then on it must not be lost


class Subject(Protocol):
    refusals: tuple[type[Exception], ...]

    def reset(self) -> None: ...

    def act(self, tell: Tell) -> None: ...

    def problems(self, ended: int) -> Iterator[str]: ...


class Store:
    """A job from its submit to its end."""

    refusals = (MmqError,)

    def __init__(self, disk: Path) -> None:
        self._settings = settings_at(disk)
        self._told = told_file(disk)
        self._looked = 0
        with closing(open_database(self._settings, lean=True, create=True)) as db:
            with_device(db)
        self._blank = (disk / "mmq.db").read_bytes()

    def reset(self) -> None:
        for file in self._settings.home.glob("mmq.db*"):
            file.unlink()
        (self._settings.home / "mmq.db").write_bytes(self._blank)

    def act(self, tell: Tell) -> None:
        with closing(open_database(self._settings, lean=True)) as db:
            job = jobs.submit(db, new_job(source="x" * 10_000), at=time.time())
            tell("submitted")
            attempt = admitted(db, job)
            tell("admitted")
            if attempts.claim(db, attempt.id, at=time.time()) is None:
                raise MmqError("nothing to claim")
            tell("claimed")
            start(db, attempt.id)
            tell("running")
            attempts.finish(db, attempt.id, ends(EndReason.DONE), at=time.time())
            tell("succeeded")

    def problems(self, ended: int) -> Iterator[str]:
        """What was told must be there; what was not may be; and the store must serve again."""
        told = self._told.read_text().split()
        with closing(open_database(self._settings, lean=True)) as db:
            yield from audit.violations(db)
            kinds = {row["state"] for row in db.query("SELECT to_state AS state FROM events WHERE kind = 'state'")}
            kinds |= {row["kind"] for row in db.query("SELECT kind FROM events")}
            kinds |= {"submitted"} if "queued" in kinds else set()
            yield from (f"{step} was told and is lost" for step in told if step not in kinds)
        self._looked += 1
        if ended != CRASHED and self._looked % 8 == 0:  # each time would double the walk's length
            self.act(lambda _: None)


class Checkpoint:
    """A third checkpoint saved, where two are kept."""

    def __init__(self, disk: Path) -> None:
        import torch

        from trainer.errors import DiskFull
        from trainer.files import checkpoint

        torch.set_num_threads(1)
        self.refusals = (DiskFull,)
        self._files = checkpoint
        self._tensors = {"first": torch.arange(50_000.0), "second": torch.ones(7)}
        self._root, self._kept = disk / "checkpoints", disk.with_name("kept")
        for step in (10, 20):
            self._save(step)
        shutil.copytree(self._root, self._kept)

    def reset(self) -> None:
        shutil.rmtree(self._root)
        shutil.copytree(self._kept, self._root)

    def act(self, tell: Tell) -> None:
        self._save(30)
        tell("saved")

    def problems(self, ended: int) -> Iterator[str]:
        there = {path.name for path in self._root.iterdir()}
        if ended != KILLED and not there <= {"step-10", "step-20", "step-30"}:
            yield f"left behind: {sorted(there)}"
        found, damage = self._files.load_newest(self._root)
        yield from damage
        step = None if found is None else found.state.step
        if step not in ((30,) if ended == DONE else (20, 30)):
            yield f"the newest checkpoint is of step {step}"
        left = {path.name for path in self._root.iterdir()} - {"step-10", "step-20", "step-30"}
        if left:
            yield f"left behind after loading: {sorted(left)}"

    def _save(self, step: int) -> None:
        self._files.save(self._root, self._files.RunState(step=step, identity={}), self._tensors, self._tensors)


class Record:
    """The record of an attempt's end, in the place of an earlier one."""

    refusals = (OSError,)

    def __init__(self, disk: Path) -> None:
        self._path = disk / "exit.json"

    def reset(self) -> None:
        self._path.write_text("old")

    def act(self, tell: Tell) -> None:
        from scheduler.processes.durable import write_durably

        write_durably(self._path, "new")
        tell("written")

    def problems(self, ended: int) -> Iterator[str]:
        text = self._path.read_text()
        if text not in (("new",) if ended == DONE else ("old", "new")):
            yield f"it reads {text!r}"


SUBJECTS = {"store": Store, "checkpoint": Checkpoint, "record": Record}


def told_file(disk: Path) -> Path:
    """Where is kept what was told: not on the disk that is full."""
    return disk.with_name("told")


def walk(world: World, subject: Subject, disk: Path, how: str) -> tuple[int, list[str]]:
    wrong, change = [], 0
    while True:
        change += 1
        subject.reset()
        told_file(disk).write_text("")
        ended, was_last = attempt(world, subject, disk, how, change)
        if ended == CRASHED or (how == "kill" and not was_last and ended != KILLED):
            wrong.append(f"change {change}: it ended with {ended}")
        wrong += [f"change {change}: {problem}" for problem in subject.problems(ended)]
        if was_last:
            return change - 1, wrong


def attempt(world: World, subject: Subject, disk: Path, how: str, change: int) -> tuple[int, bool]:
    """Let a child act in a world that turns on it at one change; how it ended, and whether it never came so far."""
    child = os.fork()
    if child == 0:
        os._exit(act(world, subject, disk, how, change))
    _, status = os.waitpid(child, 0)
    never = world.get("countdown") > 0
    world.calm()
    return os.waitstatus_to_exitcode(status), never


def act(world: World, subject: Subject, disk: Path, how: str, change: int) -> int:
    def tell(step: str) -> None:
        with told_file(disk).open("a") as file:
            file.write(f"{step}\n")

    try:
        (world.kill_at if how == "kill" else world.full_from)(change)
        subject.act(tell)
    except subject.refusals:
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return CRASHED
    return DONE


def cut(subject: Subject, changes: Path) -> tuple[int, list[str]]:
    """Let it act in peace, in a world that tells each change; how many there were, and what could be lost of them."""

    def tell(step: str) -> None:
        with changes.open("a") as file:
            file.write(f"{os.getpid()}\ttold\t{step}\n")

    subject.reset()
    changes.write_text("")
    subject.act(tell)
    made = changes.read_text().splitlines()
    return len(made), list(power.losses(made))


def main() -> None:
    shared, folder, name, how = sys.argv[1:]
    disk = Path(folder)
    subject = SUBJECTS[name](disk)
    if how == "cut":
        changes, wrong = cut(subject, Path(os.environ[CHANGES]))
    else:
        changes, wrong = walk(World(Path(shared)), subject, disk, how)
    print(json.dumps({"changes": changes, "wrong": wrong}))


if __name__ == "__main__":
    main()
