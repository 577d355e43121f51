"""One suite for each way into the store; PostgreSQL too for `make test-postgres`, which runs a server for it, and where
MMQ_TEST_POSTGRES_URL names one to empty.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from tests.store.samples import settings_at, with_device

POSTGRES_URL = os.environ.get("MMQ_TEST_POSTGRES_URL")
DRIVERS = ["lean", "engine", *(["postgres"] if POSTGRES_URL else [])]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(driver: str, tmp_path: Path) -> Settings:
    if driver != "postgres":
        return settings_at(tmp_path)
    import sqlalchemy

    assert POSTGRES_URL is not None
    engine = sqlalchemy.create_engine(POSTGRES_URL)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return settings_at(tmp_path, POSTGRES_URL)


@pytest.fixture
def db(driver: str, settings: Settings) -> Iterator[Database]:
    database = open_database(settings, lean=driver == "lean", create=True)
    with_device(database)
    yield database
    database.close()
