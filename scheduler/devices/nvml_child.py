"""The NVML probe's process, seen from outside: started, queried under a time limit, and replaced when it fails.

A probe that hangs or dies costs one answer, and the next query starts a new one, after a pause that grows with each
failure in a row. A probe that even SIGKILL does not end (it sleeps inside the driver) is not replaced.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import msgspec

from scheduler.devices.nvml_report import Report

_COMMAND = (sys.executable, "-m", "scheduler.devices.nvml_probe")
_LONGEST_PAUSE_SECONDS = 60.0
ANSWER_BYTES = 4 << 20  # a thousand GPUs with a hundred processes each say less


class ProbeFailed(Exception):
    """NVML could not be asked; says why."""


class ProbeChild:
    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = 15.0,  # the first answer takes seconds where the driver must wake up
        pause_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environment = environment
        self._timeout_seconds = timeout_seconds
        self._first_pause_seconds = self._pause_seconds = pause_seconds
        self._monotonic = monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._stuck: subprocess.Popen[bytes] | None = None
        self._failure = ""
        self._pauses_until = 0.0

    def ask(self) -> Report:
        """Get one report; ProbeFailed if the probe hung or died, or during the pause after a failure."""
        if self._monotonic() < self._pauses_until:
            raise ProbeFailed(self._failure)
        try:
            report = self._answer(self._running())
        except ProbeFailed as failure:
            self.close()
            self._failure = str(failure)
            self._pauses_until = self._monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
            raise
        self._pause_seconds = self._first_pause_seconds
        if report.error:
            self.close()  # a library that failed as a whole is loaded anew next time
        return report

    def close(self) -> None:
        """End the probe; without waiting for one that the kernel can't end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
        try:
            process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._stuck = process

    def _running(self) -> subprocess.Popen[bytes]:
        if self._stuck and self._stuck.poll() is None:
            raise ProbeFailed(f"the NVML probe hangs inside the driver (pid {self._stuck.pid})")
        self._stuck = None
        if self._process is None:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=self._environment,
                process_group=0,  # a Ctrl-C at the service's terminal is not meant for it
            )
        return self._process

    def _answer(self, process: subprocess.Popen[bytes]) -> Report:
        assert process.stdin
        try:
            process.stdin.write(b"look\n")
        except OSError:
            raise ProbeFailed(_death(process)) from None
        return read_report(self._line(process))

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout
        descriptor, line = process.stdout.fileno(), b""
        deadline = self._monotonic() + self._timeout_seconds
        while not line.endswith(b"\n"):
            left = deadline - self._monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise ProbeFailed(f"NVML did not answer within {self._timeout_seconds:g} s")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise ProbeFailed(_death(process))
            line += chunk
            if len(line) > ANSWER_BYTES:
                raise ProbeFailed(f"the NVML probe's answer is longer than {ANSWER_BYTES >> 20} MiB")
        return line


def read_report(line: bytes) -> Report:
    """Read an answer; ProbeFailed if it is none."""
    try:
        return msgspec.json.decode(line, type=Report)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ProbeFailed(f"the NVML probe's answer can't be read: {error}") from error


def _death(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return "the NVML probe closed its output"
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"the NVML probe {how}"
