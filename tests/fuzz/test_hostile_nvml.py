"""Whatever stands in for NVML's probe may say: it is a report that can be stored, or an error with a sentence; soon."""

import json
import time
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.config import Settings
from scheduler.devices import nvml_child
from scheduler.devices.nvml import NvmlDevices
from scheduler.devices.nvml_child import ProbeChild, ProbeFailed, read_report
from scheduler.devices.nvml_report import Report
from scheduler.errors import MmqError
from scheduler.store import devices
from scheduler.store.database import Database
from scheduler.store.opening import open_database

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["index", "uuid", "name", "total_bytes", "used_bytes", "capability", "processes", "utilisation", "error"]
gpus = st.fixed_dictionaries(
    {"index": st.integers(0, 9), "uuid": st.text(max_size=8)},
    optional={"total_bytes": st.integers(), "used_bytes": st.integers(), "name": st.text(), "utilisation": st.floats()},
) | st.dictionaries(st.sampled_from(FIELDS), anything)
reports = st.fixed_dictionaries({"gpus": st.lists(gpus, max_size=3)}, optional={"error": anything, "absent": anything})


class Says:
    """A probe with one answer."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def ask(self) -> Report:
        return self._report

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Database:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path_factory.mktemp("home"))})
    settings.create_home()
    return open_database(settings, lean=True, create=True)


@given(line=st.binary() | reports.map(lambda one: json.dumps(one).encode()))
@example(line=b"[" * 100_000)
@example(line=b'{"driver": "\xff"}')
@example(line=b'{"gpus": [{"index": 0, "uuid": "\\ud800"}]}')
@example(line=b'{"gpus": [{"index": 0, "uuid": "GPU", "total_bytes": 99999999999999999999}]}')
@example(line=b'{"gpus": [{"index": 0, "uuid": "GPU", "processes": [[-1, -1]]}]}')
def test_any_answer_is_a_report_that_can_be_stored_or_an_error(store: Database, line: bytes) -> None:
    try:
        report = read_report(line)
        found = NvmlDevices(Says(report))  # type: ignore[arg-type]
        infos = found.discover()
    except (ProbeFailed, MmqError):
        return
    devices.upsert(store, infos, "here")
    devices.write_readings(store, found.read())


@pytest.mark.timeout(60)
def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_child, "_COMMAND", ("cat", "/dev/zero"))
    with closing(ProbeChild(timeout_seconds=30.0)) as probe:
        began_at = time.monotonic()
        with pytest.raises(ProbeFailed, match="longer than 4 MiB"):
            probe.ask()
        assert time.monotonic() - began_at < 30
