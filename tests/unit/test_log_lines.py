"""The one form of the service's log lines: a line an event, whatever it says, that reads back."""

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.processes.loglines import log_line, message_of
from scheduler.processes.logsetup import LogLines


def test_a_line_names_time_level_part_process_and_what_it_is_about() -> None:
    line = log_line("info", "controller", "attempt 2 on virtual:1", at=1.5, job=3, attempt=2, device=None, file="a b")
    head, _, rest = line.partition(" pid=")
    assert head == "at=1970-01-01T00:00:01.500Z level=info from=controller"
    assert rest.partition(" ")[2] == 'job=3 attempt=2 file="a b" message="attempt 2 on virtual:1"'


@given(st.text())
def test_whatever_is_said_is_one_printable_line_and_reads_back(said: str) -> None:
    line = log_line("info", "shim", said, trace=said)
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert message_of(line) == said


def test_what_is_of_no_form_is_its_own_message() -> None:
    assert message_of("Traceback: message=") == "Traceback: message="


def test_a_record_carries_its_job_and_its_traceback() -> None:
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 1, "job %d failed", (7,), sys.exc_info())
    record.job = 7
    line = LogLines("worker").format(record)
    assert " logger=a.b job=7 trace=" in line
    assert message_of(line) == "job 7 failed"
    trace = json.loads(line.partition(" trace=")[2].rpartition(" message=")[0])
    assert trace.endswith("ValueError: no\nsuch thing")


@pytest.mark.parametrize("part", ["controller", "worker"])
def test_every_part_says_who_it_is(part: str) -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 1, "hm", (), None)
    assert f" level=warning from={part} " in LogLines(part).format(record)
