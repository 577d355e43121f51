"""All of these are fault tests: `make test-faults` runs them, `make test` does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.place import FaultPlace, fault_place

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="module")
def lasting_place() -> Iterator[FaultPlace]:
    with fault_place() as place:
        yield place


@pytest.fixture
def place(lasting_place: FaultPlace) -> Iterator[FaultPlace]:
    """The lasting place, up; after the test nothing is armed, nothing left, and every invariant holds."""
    lasting_place.place.up()
    yield lasting_place
    for file in lasting_place.failpoints.iterdir():
        file.unlink()
    lasting_place.place.up()
    lasting_place.place.end_jobs()
    assert lasting_place.violations() == []
