"""All of these are fault tests: `make test-faults` runs them, `make test` does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.place import FaultPlace, fault_place
from tests.processes import until

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="module")
def lasting_place() -> Iterator[FaultPlace]:
    with fault_place() as place:
        yield place


@pytest.fixture
def place(lasting_place: FaultPlace) -> Iterator[FaultPlace]:
    """The lasting place, up; after the test nothing is armed, nothing left, and every invariant holds."""
    _up(lasting_place)
    yield lasting_place
    for file in lasting_place.failpoints.iterdir():
        file.unlink()
    _up(lasting_place)
    lasting_place.place.end_jobs()
    assert lasting_place.violations() == []


def _up(place: FaultPlace) -> None:
    """See it up. A part that was killed again and again is given a pause first, of which `mmq up` complains."""
    until(lambda: place.place.mmq("up", "--detach").code == 0, "the service")
