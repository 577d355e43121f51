"""Where mmq keeps its state and what it is told by the environment. Reads; creates nothing but the home."""

import contextlib
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import MmqError, NotPermitted, UsageError

RUN_LOG_BYTES = 64 << 20
GRACE_SECONDS = 60.0
_MOST_GRACE_SECONDS = 86400.0
_LEAST_LOG_BYTES, _MOST_LOG_BYTES = 1 << 16, 1 << 40
_ELSEWHERE = "export MMQ_HOME=/another/folder"
_NO_LOGIN = 2**32 - 1
_OURS = frozenset({"mmq.db", "controller.lock", "service.lock"})  # by which a home is known again


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The environment's word, resolved once per process."""

    home: Path
    database_url: str  # "sqlite:///PATH" or "postgresql://..."
    broker_url: str | None  # None: the embedded broker
    devices: str  # auto | cpu[:BYTES] | virtual:NxSIZE
    user: str  # who logged in, as the kernel knows it; never taken from the environment
    host: str
    ignored_pids: frozenset[int] = frozenset()  # foreign processes on a device that are known not to grow
    user_limit: int | None = None  # jobs of one user that may run at once
    run_log_bytes: int = RUN_LOG_BYTES  # that each log of an attempt may take, and a job's events
    grace_seconds: float = GRACE_SECONDS  # that training may take to save when it is stopped
    metrics_file: Path | None = None  # where the controller writes its figures for Prometheus

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        home = _home(environment)
        return cls(
            home=home,
            database_url=environment.get("MMQ_DATABASE_URL") or f"sqlite:///{home / 'mmq.db'}",
            broker_url=environment.get("MMQ_BROKER_URL") or None,
            devices=environment.get("MMQ_DEVICES") or "auto",
            user=user_name(),
            host=environment.get("MMQ_HOST") or os.uname().nodename,
            ignored_pids=frozenset(_numbers(environment, "MMQ_IGNORE_PIDS")),
            metrics_file=Path(environment["MMQ_METRICS_FILE"]) if environment.get("MMQ_METRICS_FILE") else None,
            run_log_bytes=_size(environment, "MMQ_RUN_LOG_BYTES", RUN_LOG_BYTES),
            grace_seconds=_seconds(environment, "MMQ_GRACE_SECONDS", GRACE_SECONDS),
            user_limit=next(iter(_numbers(environment, "MMQ_USER_LIMIT")), None),
        )

    def create_home(self) -> None:
        """Make the home, private; MmqError if it can't be, or is somebody's folder that must not be made private."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.home.stat().st_mode & 0o077 and not self.holds_only_ours():
                raise NotPermitted(
                    f"{self.home} holds other files, and other users can access it; mmq needs a folder of its own",
                    hint=f"export MMQ_HOME={self.home / 'mmq'}",
                )
            self.home.chmod(0o700)
        except OSError as error:
            reason = f"can't create {self.home}: {error.strerror}"
            raise MmqError(reason, hint=_ELSEWHERE) from error

    def holds_only_ours(self) -> bool:
        """Whether the home, which is there, is one of mmq's or empty."""
        names = {entry.name for entry in self.home.iterdir()}
        return not names or not names.isdisjoint(_OURS)

    @property
    def jobs_dir(self) -> Path:
        return self.home / "jobs"

    def run_dir(self, job_id: int) -> Path:
        return self.jobs_dir / str(job_id)

    @property
    def broker_dir(self) -> Path:
        return self.home / "broker"

    @property
    def sockets_dir(self) -> Path:
        """The home; or, where a socket's path there would pass the kernel's 107 bytes, a short private one."""
        if len(str(self.home)) <= 80:
            return self.home
        import hashlib  # both rarely needed, and slow to import for every command
        import tempfile

        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"mmq-{os.getuid()}-{digest}"

    @property
    def broker_socket(self) -> Path:
        return self.sockets_dir / "valkey.sock"

    @property
    def doorbell_socket(self) -> Path:
        return self.sockets_dir / "controller.sock"

    @property
    def cycle_record(self) -> Path:
        """The facts of the controller's last cycle, for `mmq why` and `mmq status JOB`."""
        return self.home / "cycle.json"

    @property
    def service_lock(self) -> Path:
        return self.home / "service.lock"

    def service_locks(self) -> list[Path]:
        """Return the locks that a service has or had: one for the whole, or one for each part that runs by itself."""
        return list(self.home.glob("service*.lock"))

    @property
    def log_dir(self) -> Path:
        return self.home / "log"

    @property
    def ledger_dir(self) -> Path:
        """One directory a virtual device: who holds how much of it."""
        return self.home / "ledger"


def _numbers(environment: Mapping[str, str], name: str) -> list[int]:
    told = (environment.get(name) or "").replace(",", " ").split()
    if not all(one.isdecimal() and int(one) > 0 for one in told):
        raise UsageError(f"{name} is {environment[name]!r}; it takes whole numbers above 0", hint=f"unset {name}")
    return [int(one) for one in told]


def _size(environment: Mapping[str, str], name: str, default: int) -> int:
    told = environment.get(name)
    if not told:
        return default
    from scheduler.units import parse_bytes  # which few commands pay for

    with contextlib.suppress(ValueError):
        if _LEAST_LOG_BYTES <= (size_bytes := parse_bytes(told)) <= _MOST_LOG_BYTES:
            return size_bytes
    raise UsageError(f"{name} is {told!r}; it takes an amount like 64MiB, from 64KiB to 1TiB", hint=f"unset {name}")


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    told = environment.get(name)
    if not told:
        return default
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(told)) <= _MOST_GRACE_SECONDS:
            return seconds
    raise UsageError(f"{name} is {told!r}; it takes seconds, from 0 to a day's 86400", hint=f"unset {name}")


def _home(environment: Mapping[str, str]) -> Path:
    told = environment.get("MMQ_HOME")
    state = environment.get("XDG_STATE_HOME")
    try:
        home = Path(told or Path(state or Path.home() / ".local" / "state") / "mmq").absolute()
        str(home).encode()
    except RuntimeError:
        raise UsageError("this user has no home directory to keep mmq's state in", hint=_ELSEWHERE) from None
    except UnicodeEncodeError:
        raise UsageError(f"mmq's home {str(told or state)!a} is not UTF-8 text", hint=_ELSEWHERE) from None
    if "?" in str(home):  # in a database URL, the path ends there
        raise UsageError(f"mmq's home {home} must not have a question mark in its name", hint=_ELSEWHERE)
    return home


def user_name(login: Path = Path("/proc/self/loginuid")) -> str:
    """Name who logged in, whom sudo and su don't change, so that people who share an account stay apart.

    Nobody can set it by hand. Where nobody logged in (a container, a service), or root did: the owner of this process.
    """
    uid = os.getuid()
    with contextlib.suppress(OSError, ValueError):
        told = int(login.read_text())
        uid = uid if told in (0, _NO_LOGIN) else told
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
