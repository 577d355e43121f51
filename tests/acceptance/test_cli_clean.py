"""`mmq clean`: what goes by which policy, and what stays whatever is told."""

import json
import time
from pathlib import Path

import pytest

from scheduler.cli.cleanup import superfluous
from scheduler.config import Settings
from scheduler.jobs.states import EndReason
from scheduler.processes.locks import TRAINER_LOCK, take_lock
from scheduler.store import attempts, audit, jobs
from scheduler.store.database import Database
from scheduler.store.records import Job
from tests.acceptance.conftest import Mmq
from tests.store.samples import SPEC, ends, queued, running, with_device

NOW = time.time()


@pytest.fixture(autouse=True)
def device(store: Database) -> None:
    with_device(store)


def checkpoint(root: Path, step: int, loss: float | None = None, *, whole: bool = True) -> Path:
    path = root / "checkpoints" / f"step-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x" * 1000)
    facts = {"model.safetensors": {"size_bytes": 1000 if whole else 2000, "sha256": ""}}
    (path / "manifest.json").write_text(json.dumps({"step": step, "validation_loss": loss, "files": facts}))
    return path


def ended(
    store: Database, settings: Settings, reason: EndReason = EndReason.DONE, *, days: float = 60, **job: object
) -> tuple[Job, Path]:
    """A job that ended so many days ago, with three checkpoints (the second the best) and a result."""
    attempt = running(store, queued(store, user_name=settings.user, **job))
    attempts.finish(store, attempt.id, ends(reason, message=reason.value), at=NOW - days * 86400)
    root = settings.run_dir(attempt.job_id)
    for step, loss in ((3, 2.0), (6, 1.0), (9, 1.5), (12, 1.2)):
        checkpoint(root, step, loss)
    (root / "checkpoints" / ".tmp-step-15-77").mkdir()
    (root / "final").mkdir()
    (root / "final/model.safetensors").write_bytes(b"weights")
    return jobs.get(store, attempt.job_id), root


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").glob("*"))


def test_the_last_and_the_best_checkpoint_stay(mmq: Mmq, store: Database, settings: Settings) -> None:
    _, root = ended(store, settings)
    would = mmq("clean", "--dry-run").out
    assert would.splitlines()[-1].startswith("would free")
    assert len(left(root)) == 5
    assert mmq("clean").out.replace("freed", "would free") == would
    assert left(root) == ["step-12", "step-6"]
    assert (root / "final/model.safetensors").exists()
    assert mmq("clean").out == "freed 0 B of 0 jobs\n"
    assert not (settings.jobs_dir / ".removed").exists()


def test_a_checkpoint_that_is_not_whole_is_never_the_last(tmp_path: Path) -> None:
    checkpoint(tmp_path, 3)
    whole, torn = checkpoint(tmp_path, 6), checkpoint(tmp_path, 9, whole=False)
    assert {path.name for path in superfluous(tmp_path)} == {"step-3"}
    assert whole.exists()
    assert torn.exists()
    for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
        path.write_text("[]")
    assert superfluous(tmp_path) == []  # none is whole: nothing is known, nothing goes


def test_age_number_and_owner_choose(mmq: Mmq, store: Database, settings: Settings) -> None:
    for days in (90, 60, 40, 10):
        ended(store, settings, days=days)
    another, _ = ended(store, settings)
    with store.transaction() as tx:
        tx.execute("UPDATE jobs SET user_name = 'eve' WHERE id = :id", id=another.id)

    def chosen(*words: str) -> list[int]:
        return sorted(one["id"] for one in json.loads(mmq("clean", "--dry-run", "--json", *words).out)["jobs"])

    assert chosen() == [1, 2, 3]
    assert chosen("--older-than", "50d") == [1, 2]
    assert chosen("--older-than", "1d", "--keep-last", "3") == [1]
    assert chosen("--older-than", "0s") == [1, 2, 3, 4]
    assert mmq("clean", "--older-than", "soon").code == 2


def test_all_checkpoints_go_when_told_and_a_result_stays(mmq: Mmq, store: Database, settings: Settings) -> None:
    _, root = ended(store, settings)
    mmq("clean", "--checkpoints")
    assert left(root) == []
    assert (root / "final/model.safetensors").exists()


def test_a_forgotten_job_leaves_nothing_and_its_id_is_not_given_again(
    mmq: Mmq, store: Database, settings: Settings
) -> None:
    _, root = ended(store, settings)
    ended(store, settings, depends_on=(1,))
    assert mmq("clean", "--runs").code == 0
    assert not root.exists()
    for table in ("jobs", "attempts", "events", "dependencies", "reservations"):
        assert store.query(f"SELECT * FROM {table}") == []
    assert queued(store).id == 3
    assert audit.violations(store) == []
    assert next(line for line in mmq("doctor").out.splitlines() if "runs" in line).startswith("ok")


@pytest.mark.parametrize("words", [[], ["--checkpoints"], ["--runs"]])
def test_what_a_later_job_needs_stays(mmq: Mmq, store: Database, settings: Settings, words: list[str]) -> None:
    kept = {}
    for number in range(1, 6):
        _, kept[number] = ended(store, settings)
    queued(store, depends_on=(1,))
    failed = running(store, queued(store, depends_on=(2,)))
    attempts.finish(store, failed.id, ends(EndReason.BAD_DATA), at=NOW)
    weights = {"init_from": {"path": str(kept[3] / "final" / "model.safetensors")}}
    data = {"data": {"path": "/x", "tokenizer": str(kept[4] / "tokenizer.json")}}
    queued(store, spec=json.dumps(SPEC | weights | data))
    done = mmq("clean", *words)
    assert all(len(left(kept[number])) == 5 for number in (1, 2, 3, 4))
    assert not kept[5].exists() or len(left(kept[5])) < 5
    assert "job 1 stays as it is: job 6 (queued) comes after it" in done.err
    assert "job 2 stays as it is: job 7 (failed) comes after it" in done.err
    assert "job 3 stays" in done.err
    assert "job 4 stays" in done.err
    assert audit.violations(store) == []


def test_a_job_that_is_alive_or_was_retried_stays(mmq: Mmq, store: Database, settings: Settings) -> None:
    _, root = ended(store, settings)
    lock = take_lock(root / TRAINER_LOCK)
    assert lock is not None
    assert "one of its processes is still alive" in mmq("clean", "--runs").err
    assert root.exists()
    retried, again = ended(store, settings, EndReason.BAD_DATA)
    jobs.retry(store, retried.id, at=NOW)
    mmq("clean", "--runs", "--older-than", "0s")
    assert len(left(again)) == 5


def test_a_job_retried_between_the_choice_and_the_removal_stays_whole(
    mmq: Mmq, store: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scheduler.store import pruning

    _, root = ended(store, settings, EndReason.BAD_DATA)
    choose = pruning.needed

    def slow(*said: object, **more: object) -> dict[int, str]:
        stay = choose(*said, **more)  # type: ignore[arg-type]
        jobs.retry(store, 1, at=NOW)
        return stay

    monkeypatch.setattr(pruning, "needed", slow)
    assert mmq("clean", "--runs").out == "freed 0 B of 0 jobs\n"
    assert len(left(root)) == 5
