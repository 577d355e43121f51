"""A loop that can't be traced is told in one line: what happened, in which line of the person's, and what helps."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.footprint.loop import trace_loop
from trainer.entry.__main__ import answered

Told = Callable[..., dict[str, Any]]

LOOP = """
import torch

def build(batch=3):
    model = torch.nn.Linear(8, 8).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    def step():
        model(torch.randn(batch, 8).to("cuda")).sum().backward()
        optimizer.step()
    return model, step
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Trace `build` of a file with this text, and answer as the tracer's process does."""
    file = tmp_path / "own_loop.py"
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["mmq"])
    monkeypatch.delitem(sys.modules, file.stem, raising=False)

    def traced(text: str, **settings: Any) -> dict[str, Any]:
        file.write_text(text)
        return answered({"file": str(file), "function": "build", "settings": settings, "total_bytes": 1 << 34})

    return traced


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("sys.exit(0)", "ended its process itself, with exit code 0"),
        ("sys.exit('no rows')", 'ended its process itself, saying "no rows"'),
        ("sys.exit('no rows\\nat all')", 'ended its process itself, saying "no rows"'),
        ("os._exit(3)", "ended its process itself, with exit code 3"),
        ("os._exit(status=3)", "ended its process itself, with exit code 3"),
    ],
)
def test_a_loop_that_ends_its_process_is_told_so_with_the_line(told: Told, ending: str, words: str) -> None:
    found = told(LOOP.replace("optimizer.step()", ending).replace("import torch", "import os, sys, torch"))
    assert words in found["error"]
    assert "own_loop.py:9)" in found["error"]
    assert "must return" in found["hint"]


def test_a_loop_that_reads_the_command_line_is_told_to_take_arguments(told: Told) -> None:
    asks = "import argparse\ndef build():\n  p = argparse.ArgumentParser()\n  p.add_argument('--data', required=True)\n"
    found = told(f"{asks}  p.parse_args()\n")
    assert "reads the command line" in found["error"]
    assert "--data" in found["error"]
    assert "--set" in found["hint"]


def test_what_can_not_be_parsed_has_one_place(told: Told) -> None:
    found = told("def build():\n    x = (1,\n")
    assert found["error"].startswith("SyntaxError: '(' was never closed (")
    assert found["error"].endswith("own_loop.py:2)")


def test_a_text_that_the_loop_can_not_parse_is_told_by_the_loop_s_line(told: Told) -> None:
    found = told("import ast\ndef build():\n    return ast.literal_eval('(1,')\n")
    assert "own_loop.py:3" in found["error"]
    assert "py_compile" not in found.get("hint", "")


def test_a_fork_of_the_loop_s_gives_no_answer_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "forking.py"
    forks = "    if os.fork() == 0:\n        sys.exit(0)\n    os.wait()\n    model = torch"
    file.write_text(LOOP.replace("import torch", "import os, sys, torch").replace("    model = torch", forks))
    request = {"file": str(file), "function": "build", "settings": {}, "total_bytes": 1 << 34}
    assert trace_loop(request).body is not None


@pytest.mark.parametrize(("value", "given"), [("x", "text"), (2.5, "a fraction")])
def test_a_setting_of_another_kind_is_named_where_a_call_of_torch_s_fails(told: Told, value: Any, given: str) -> None:
    found = told(LOOP, batch=value)
    assert "expected one of" not in found["error"]
    assert "own_loop.py:8)" in found["error"]
    assert found["hint"] == f"build takes a whole number for batch; --set batch={value} gives {given}"


def test_a_module_that_is_not_there_is_found_by_another_interpreter(told: Told) -> None:
    found = told("import not_installed_here\n")
    assert "No module named 'not_installed_here'" in found["error"]
    assert "--python" in found["hint"]


def test_sparse_gradients_are_told_with_what_is_done_instead(told: Told) -> None:
    found = told(
        LOOP.replace("Linear(8, 8)", "Embedding(8, 8, sparse=True)").replace(
            "torch.randn(batch, 8)", "torch.zeros(batch, dtype=torch.int64)"
        )
    )
    assert found["error"].startswith("sparse tensors")
    assert "own_loop.py:8)" in found["error"]
    assert "dense" in found["hint"]


def test_an_error_in_a_library_names_the_person_s_line_too(told: Told) -> None:
    found = told(
        "import msgspec\ndef build():\n    import click\n    return click.IntRange(min=3).convert('1', None, None)\n"
    )
    assert "own_loop.py:4, in " in found["error"]
    assert "/click/" in found["error"]


@pytest.mark.parametrize(
    ("script", "error", "hint"),
    [
        ("kill -9 $$", "killed from outside (SIGKILL)", "host memory"),
        ("kill -11 $$", "died of SIGSEGV", "faulthandler"),
        (
            "echo no torch for you >&2; exit 3",
            "ended with exit code 3 and without an answer: no torch for you",
            "may end",
        ),
        ("cat > /dev/null; echo hello", "can't be read", ""),
        ("exec sleep 60", "within 0.5 s", "downloads"),
    ],
)
def test_a_process_that_gives_no_answer_is_told_by_its_end(tmp_path: Path, script: str, error: str, hint: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    found = trace_loop({}, python=str(python), time_limit_seconds=0.5 if "sleep" in script else 30)
    assert found.body is None
    assert error in found.error
    assert hint in (found.hint or "")
