"""A home with a store, a job file with its rows, and `mmq` as it is typed."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.cli.run import run
from scheduler.config import Settings
from scheduler.controller.loop import RECONCILE_SECONDS
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from scheduler.store.upgrade import upgrade
from tests.acceptance import workplace as workplaces
from tests.acceptance.workplace import REPOSITORY, Done, Workplace, workplace
from tests.faults import invariants

JOB = """\
kind: pretrain
name: tiny
model: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 320}
data:
  path: rows.jsonl
  max_seq_len: 32
train: {max_steps: 10, batch_size: 8, accumulation_steps: 2}
"""


Mmq = Callable[..., Done]
Meanwhile = Callable[[Callable[[], None]], None]


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without jobs, made once."""
    home = tmp_path_factory.mktemp("blank")
    upgrade(Settings.from_environment({"MMQ_HOME": str(home)}))
    return home / "mmq.db"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home that does not exist yet; two virtual devices; nothing of the caller's environment."""
    for name in [name for name in os.environ if name.startswith("MMQ_") or name in ("NO_COLOR", "COLUMNS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MMQ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MMQ_DEVICES", "virtual:2x1GiB")
    monkeypatch.chdir(tmp_path)
    return Settings.from_environment()


@pytest.fixture
def store(settings: Settings, blank_store: Path) -> Iterator[Database]:
    """The home's store, open."""
    settings.create_home()
    shutil.copy(blank_store, settings.home / "mmq.db")
    with closing(open_database(settings, lean=True)) as database:
        yield database


@pytest.fixture
def mmq(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Mmq:
    """Run a command in this process."""

    def typed(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return typed


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Have something happen once a command pauses, and so has seen that it must wait; it never pauses again."""

    def happens(act: Callable[[], None]) -> None:
        acts = iter([act])
        monkeypatch.setattr(time, "sleep", lambda _seconds: next(acts, lambda: None)())

    return happens


@pytest.fixture
def shell(settings: Settings) -> Mmq:
    return lambda line: workplaces.shell(line, Path.cwd(), os.environ | {"PYTHONPATH": str(REPOSITORY)})


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    path = tmp_path / "tiny.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="session")
def lasting_place() -> Iterator[Workplace]:
    """One home with a real service for all the tests that leave it as they found it."""
    with workplace() as place:
        yield place


@pytest.fixture
def place(lasting_place: Workplace) -> Iterator[Workplace]:
    """The lasting place, its service up and ready; after the test no job of it is left, and every invariant holds."""
    lasting_place.up()
    yield lasting_place
    lasting_place.end_jobs()
    assert invariants.violations(lasting_place.settings, lasting_seconds=2 * RECONCILE_SECONDS) == []


@pytest.fixture
def own_place() -> Iterator[Workplace]:
    """A fresh home without a service, for the tests that begin with nothing."""
    with workplace() as place:
        yield place


@pytest.fixture
def result(mmq: Mmq, settings: Settings, store: Database, job_file: Path, tmp_path: Path) -> Path:
    """A result of job 1, of a model that has learned nothing."""
    import torch
    import yaml

    from trainer.config import parse_config
    from trainer.data.tokenizer import open_tokenizer
    from trainer.files.export import write_final
    from trainer.model.minimind import MiniMind, initialise

    mmq("submit", job_file)
    run_dir = settings.run_dir(1)
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = {"path": str(tmp_path / "rows.jsonl"), "max_seq_len": 32}
    config = parse_config({"kind": "pretrain", "model": yaml.safe_load(JOB)["model"], "data": rows})
    model = MiniMind(config, torch.device("cpu"))
    initialise(model, seed=1)
    return write_final(run_dir, config, model, open_tokenizer(config, run_dir), "")
