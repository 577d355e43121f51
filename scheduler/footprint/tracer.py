"""Runs the tracer: `python -m trainer.trace`, a child that imports torch so that nobody here has to.

Owns the children, their time limit and their end. `ask` never waits: the answer comes later, through `collect`, and
`on_answer` says from another thread that there is one.
"""

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from scheduler.footprint.curve import Footprint
from scheduler.processes.interpreter import python_command, with_source

TRACER = tuple(python_command("trainer.trace"))
TIME_LIMIT_SECONDS = 300.0
CHILDREN = 1  # a trace takes a core, and 320 MiB of host memory for minimind-3

_BAD_CONFIGURATION = 2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a trace: its JSON, or an error in a sentence."""

    key: str
    body: str | None = None
    error: str | None = None
    hopeless: bool = False  # the configuration itself is wrong: asking again would not help
    timed_out: bool = False


class Tracer:
    """A small pool of tracing children. For one caller's thread."""

    def __init__(
        self,
        *,
        on_answer: Callable[[], object],
        command: Sequence[str] = TRACER,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
    ) -> None:
        self._on_answer = on_answer
        self._command = command
        self._time_limit_seconds = time_limit_seconds
        self._pool = ThreadPoolExecutor(max_workers=CHILDREN, thread_name_prefix="tracer")
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        self._answers: list[Answer] = []
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = False

    def ask(self, key: str, request: Mapping[str, Any]) -> None:
        """Start tracing, unless this key is being traced or its answer lies here uncollected."""
        with self._lock:
            if key in self._asked or self._closed:
                return
            self._asked.add(key)
        self._pool.submit(self._work, key, json.dumps(request))

    def collect(self) -> list[Answer]:
        """Take the answers that have come since the last call."""
        with self._lock:
            answers, self._answers = self._answers, []
            self._asked -= {answer.key for answer in answers}
        return answers

    def close(self) -> None:
        """Kill the children: nobody will read their answers."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self, key: str, request: str) -> None:
        try:
            answer = self._trace(key, request)
        except OSError as error:
            answer = Answer(key=key, error=f"the tracer could not be started: {error}")
        with self._lock:
            self._answers.append(answer)
            closed = self._closed
        if not closed:
            self._on_answer()

    def _trace(self, key: str, request: str) -> Answer:
        with self._lock:
            if self._closed:
                return Answer(key=key, error="the controller is stopping")
            child = start(self._command)
            self._children.add(child)
        try:
            return finish(child, key, request, self._time_limit_seconds)
        finally:
            with self._lock:
                self._children.discard(child)


def trace(
    key: str,
    request: Mapping[str, Any],
    *,
    command: Sequence[str] = TRACER,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
) -> Answer:
    """Trace and wait for the answer."""
    return finish(start(command), key, json.dumps(request), time_limit_seconds)


def start(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a child that sees no GPU (a trace on one would create a context of half a GB) and uses one thread."""
    environment = dict(with_source(os.environ) if environment is None else environment) | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MMQ_TRACER_PARENT": str(os.getpid()),  # it ends with us: nobody else would end it
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", env=environment)


def finish(child: subprocess.Popen[str], key: str, request: str, time_limit_seconds: float) -> Answer:
    """Hand the request over, wait for the end, and read the answer or the reason for there being none."""
    output = hand_over(child, request, time_limit_seconds)
    if output is None:
        return Answer(key=key, error=f"the tracer did not end within {time_limit_seconds:g} s", timed_out=True)
    out, complaint = output
    if child.returncode == 0:
        return _read(key, out)
    last = last_line(complaint) or "it said nothing"
    if child.returncode == _BAD_CONFIGURATION:
        return Answer(key=key, error=f"the tracer refused the configuration: {last}", hopeless=True)
    ended = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
    return Answer(key=key, error=f"the tracer ended with {ended}: {last}")


def hand_over(child: subprocess.Popen[str], request: str, time_limit_seconds: float) -> tuple[str, str] | None:
    """Give a child its request and wait for its end; return its stdout and stderr, None if it had to be killed."""
    with child:
        try:
            return child.communicate(request, timeout=time_limit_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            with contextlib.suppress(OSError, ValueError):
                child.communicate()
            return None


def last_line(text: str) -> str | None:
    return next((line for line in reversed(text.splitlines()) if line.strip()), None)


def _read(key: str, out: str) -> Answer:
    try:
        Footprint.from_json(json.loads(out))
    except (KeyError, TypeError, ValueError) as error:
        return Answer(key=key, error=f"the tracer's answer can't be read: {error!r}")
    return Answer(key=key, body=out)
