"""The tracer's child: its answer, its errors, its time limit, its end. The child is a script of a few lines."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.footprint.curve import Footprint
from scheduler.footprint.tracer import Answer, Tracer, trace
from scheduler.processes.interpreter import with_source
from scheduler.processes.liveness import process_started
from tests.processes import PATIENCE_SECONDS, gone, until

ECHO = """
import json, os, sys
request = json.load(sys.stdin)
assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
mode = {"activation_checkpointing": False, "optimizer_offload": False, "chunked_loss": True}
sizes = {"allocated_bytes": 1, "reserved_bytes": 2, "process_bytes": 3}
row = {"micro_batch": request["size"], **mode, **sizes, "parts": {}}
print(json.dumps({"torch": "2", "parameters": 1, "candidates": [row]}))
"""
REQUEST = {"size": 4}
ASKER = """
import sys, time
from scheduler.footprint.tracer import start
child = start([sys.executable, "-c", sys.argv[1]])
print(child.stdout.readline(), flush=True)
time.sleep(300)
"""
TRACES = """
import os, time
from trainer.trace.parent import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(300)
"""


@pytest.fixture
def child(tmp_path: Path) -> Callable[[str], list[str]]:
    def write(code: str) -> list[str]:
        path = tmp_path / "child.py"
        path.write_text(code)
        return [sys.executable, str(path)]

    return write


def test_answers(child: Callable[[str], list[str]]) -> None:
    answer = trace("k", REQUEST, command=child(ECHO))
    assert answer.error is None
    assert answer.body is not None
    assert Footprint.from_json(json.loads(answer.body)).candidates[0].micro_batch == 4


@pytest.mark.parametrize(
    ("code", "error", "hopeless"),
    [
        (
            "import sys; print('hidden_size 7 is odd', file=sys.stderr); sys.exit(2)",
            "the tracer refused the configuration: hidden_size 7 is odd",
            True,
        ),
        ("import os; os.kill(os.getpid(), 9)", "the tracer ended with signal 9: it said nothing", False),
        ("raise SystemExit(7)", "the tracer ended with exit code 7: it said nothing", False),
        ("print('no json')", "the tracer's answer can't be read", False),
        ("import time; time.sleep(60)", "the tracer did not end within 0.5 s", False),
    ],
)
def test_says_why_there_is_no_answer(child: Callable[[str], list[str]], code: str, error: str, hopeless: bool) -> None:
    begun = time.monotonic()
    answer = trace("k", REQUEST, command=child(code), time_limit_seconds=0.5 if "sleep" in code else 30)
    assert answer.body is None
    assert (answer.error or "").startswith(error)
    assert answer.hopeless is hopeless
    assert time.monotonic() - begun < 50


def test_a_command_that_is_not_there_is_an_error_like_others() -> None:
    rung = threading.Event()
    tracer = Tracer(on_answer=rung.set, command=["/nowhere/python"])
    tracer.ask("k", REQUEST)
    assert rung.wait(PATIENCE_SECONDS)
    (answer,) = tracer.collect()
    assert (answer.error or "").startswith("the tracer could not be started")
    tracer.close()


def test_asking_never_waits_and_asks_once(child: Callable[[str], list[str]], tmp_path: Path) -> None:
    rung, gate = threading.Event(), tmp_path / "gate"
    held_up = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    tracer = Tracer(on_answer=rung.set, command=child(held_up + ECHO))
    for _ in range(3):
        tracer.ask("k", REQUEST)
    gate.touch()
    assert rung.wait(PATIENCE_SECONDS)
    answers: list[Answer] = tracer.collect()
    assert [answer.key for answer in answers] == ["k"]
    assert tracer.collect() == []
    tracer.close()


def test_closing_kills_the_children_and_drops_the_rest(child: Callable[[str], list[str]], tmp_path: Path) -> None:
    started = tmp_path / "pid"
    sleeper = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    answers: list[Any] = []
    tracer = Tracer(on_answer=lambda: answers.append(1), command=child(sleeper))
    for key in "abc":
        tracer.ask(key, REQUEST)
    until(lambda: started.exists() and started.read_text())
    tracer.close()
    assert not Path(f"/proc/{started.read_text()}").exists()
    assert answers == []
    tracer.ask("d", REQUEST)  # a no-op by now


def test_a_tracer_ends_with_whoever_asked() -> None:
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER, TRACES], env=with_source(os.environ), stdout=subprocess.PIPE, text=True
    )
    with asker:
        assert asker.stdout is not None
        pid = int(asker.stdout.readline())
        assert process_started(pid) is not None
        asker.kill()
    until(lambda: gone(pid), "the tracer's end")


def test_a_tracer_whose_asker_is_gone_does_not_begin() -> None:
    environment = with_source(os.environ) | {"MMQ_TRACER_PARENT": "0"}
    ended = subprocess.run([sys.executable, "-m", "trainer.trace"], env=environment, input=b"{}", check=False)
    assert ended.returncode == 1
