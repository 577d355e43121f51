"""`mmq generate` and `mmq evaluate` as typed, on a job's real result; torch is loaded by their child alone."""

import contextlib
import json
import math
import os
import signal
import subprocess
from pathlib import Path

import pytest

from scheduler.cli.evaluate import in_words
from scheduler.processes.interpreter import python_command, with_source
from scheduler.processes.liveness import process_started
from scheduler.store.database import Database
from tests.acceptance.conftest import Mmq
from tests.processes import PATIENCE_SECONDS, until


def test_a_prompt_is_continued(shell: Mmq, result: Path) -> None:
    done = shell("$MMQ generate 1 --prompt 'one and' --max-new-tokens 4")
    assert done.code == 0, done.err
    assert done.out.endswith("\n")
    assert "tokens in" in done.err
    again = shell("$MMQ generate tiny --prompt 'one and' --max-new-tokens 9 --temperature 1 --seed 3 | head -c 1")
    assert (again.code, "Traceback" in again.err) == (0, False)


def test_a_file_is_evaluated(shell: Mmq, result: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one and one"}\n\n{"text": "and two"}\n')
    told = json.loads(shell("$MMQ evaluate 1 rows.jsonl --json").out)
    assert (told["rows"], told["blank_lines"], told["weights"]) == (2, 1, str(result))
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    said = in_words(told)
    assert said.startswith(f"loss {told['loss']:.4f}, perplexity {told['perplexity']:.2f}\n")
    assert "1 blank lines" in said


def test_an_interrupt_ends_both_without_a_word(result: Path) -> None:
    """^C goes to all processes of a terminal's foreground."""
    command = python_command("scheduler", "generate", "1", "--prompt", "one")
    pipe = subprocess.PIPE

    def foreground() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background, it is ignored

    with subprocess.Popen(
        command, env=with_source(os.environ), stdout=pipe, stderr=pipe, text=True, preexec_fn=foreground
    ) as mmq:
        try:
            children = Path(f"/proc/{mmq.pid}/task/{mmq.pid}/children")
            child = int(until(lambda: children.read_text().split())[0])
            os.killpg(mmq.pid, signal.SIGINT)
            assert mmq.wait(PATIENCE_SECONDS) == 130
            assert mmq.communicate()[1].strip() == ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(mmq.pid, signal.SIGKILL)
    until(lambda: process_started(child) is None)


def test_what_cannot_be_is_said(mmq: Mmq, shell: Mmq, store: Database, result: Path, tmp_path: Path) -> None:
    mmq("submit", "tiny.yaml")
    done = mmq("generate", "2", "--prompt", "a")
    assert (done.code, done.err) == (1, "error: job 2 has no weights yet: it is queued\n  hint: mmq status 2\n")
    assert mmq("evaluate", "1-2", "rows.jsonl").err.startswith("error: 1-2 names 2 jobs; evaluate takes one\n")
    assert mmq("generate", "7", "--prompt", "a").code == 3
    assert mmq("generate", "1", "--prompt", "a", "--temperature", "-1").code == 2
    done = shell("$MMQ evaluate 1 nowhere.jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: nowhere.jsonl: no such file\n  hint: ")
    (tmp_path / "bad.jsonl").write_text("no row\n")
    done = shell("$MMQ evaluate 1 bad.jsonl")
    assert done.code == 2
    assert done.err.startswith("error: bad.jsonl:1: ")
