"""A child process of the service: started, restarted with growing pauses, stopped. Does not know what it does."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.periods import period
from scheduler.processes.process_tree import dies_with_parent
from scheduler.service.logs import open_log, rotate

FIRST_PAUSE_SECONDS = period(0.5)
LONGEST_PAUSE_SECONDS = period(30.0)
SETTLED_SECONDS = period(60.0)  # a child that has lived so long has its earlier failures forgotten


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a child is."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    is_ready: Callable[[int], bool]  # given its pid
    goes_first: bool = False  # the others wait for it, for a while
    repair: Callable[[], object] | None = None  # done after it ended without ever having been ready
    socket: Path | None = None  # by which alone it is reached


@dataclass
class Child:
    role: Role
    say: Callable[[str], None]
    lock: int  # a descriptor it inherits: whoever waits for it waits for us all
    ready: bool = False
    failures: int = 0  # ends in a row
    _process: "subprocess.Popen[bytes] | None" = None
    _started_at: float = 0.0
    _next_start: float = field(default=0.0)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def tend(self) -> None:
        """Start it if it isn't there, see whether it is ready, and note its end."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._next_start:
                self._start(now)
        elif self._process.poll() is not None:
            self._ended(self._process.returncode, now)
        elif not self.ready and self.role.is_ready(self._process.pid):
            self.ready = True
        elif self.ready and self.role.socket is not None and not self.role.socket.exists():
            self.say(f"{self.role.name}: its socket {self.role.socket} has been removed; it is ended, to make another")
            self.ready = False
            self.terminate()
        rotate(self.role.log)

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait for its end after `terminate`; kill it when it takes too long."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.say(f"{self.role.name} did not end within {seconds:.0f} s: killed")
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self, now: float) -> None:
        log = None
        try:
            log = open_log(self.role.log)
            self._process = subprocess.Popen(
                self.role.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.role.directory,
                env=dict(self.role.environment),
                start_new_session=True,  # a terminal's ^C is ours to answer
                pass_fds=[self.lock],
                preexec_fn=dies_with_parent(),
            )
        except OSError as error:
            self.say(f"{self.role.name} can't be started: {error}")
            self._back_off(now)
            return
        finally:
            if log is not None:
                os.close(log)
        self._started_at = now

    def _ended(self, status: int, now: float) -> None:
        self._process = None
        if now - self._started_at > SETTLED_SECONDS:
            self.failures = 0
        if not self.ready and self.role.repair is not None and self.role.repair():
            self.say(f"{self.role.name}: set aside what it could not load")
        self.ready = False
        self._back_off(now)
        pause_seconds = self._next_start - now
        self.say(f"{self.role.name} {_how(status)}; starting again in {pause_seconds:.1f} s (see {self.role.log})")

    def _back_off(self, now: float) -> None:
        self.failures += 1
        pause_seconds = FIRST_PAUSE_SECONDS * 2 ** min(self.failures - 1, 10)
        self._next_start = now + min(LONGEST_PAUSE_SECONDS, pause_seconds)


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with code {status}"
