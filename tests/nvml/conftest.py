"""The stand-in, built once; and a machine of one's own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.devices.nvml_child import ProbeChild
from tests.nvml.standin import Machine, build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library=library, state=tmp_path / "machine")


@pytest.fixture
def probe(machine: Machine) -> Iterator[ProbeChild]:
    """A probe that tries again at once after a failure."""
    child = ProbeChild(environment=machine.environment, timeout_seconds=30, pause_seconds=0)
    yield child
    child.close()
