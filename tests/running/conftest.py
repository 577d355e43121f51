"""A stage for each test; the store's schema is made once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.store.opening import open_database
from tests.running.stage import Stage


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("store")
    open_database(Settings.from_environment({"MMQ_HOME": str(home)}), lean=True, create=True).close()
    return home / "mmq.db"


@pytest.fixture
def settings(tmp_path: Path, empty_store: Path) -> Settings:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path / "home"), "MMQ_HOST": "here"})
    settings.create_home()
    shutil.copy(empty_store, settings.home / "mmq.db")
    return settings


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    stage = Stage(settings)
    yield stage
    stage.close()
