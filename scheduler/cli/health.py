"""What `mmq doctor` looks at. Each check is a function that yields findings; none changes anything."""

import importlib.util
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from scheduler.broker.address import broker_address
from scheduler.broker.reach import reachable
from scheduler.broker.valkey import find_server
from scheduler.cli import recovery
from scheduler.cli.fixes import partial_copies, private_files
from scheduler.config import Settings
from scheduler.devices.choice import open_devices
from scheduler.errors import MmqError
from scheduler.processes.liveness import process_started
from scheduler.processes.locks import TRAINER_LOCK, lock_held
from scheduler.store import attempts, audit, views
from scheduler.store.database import Database
from scheduler.store.location import sqlite_path
from scheduler.store.numbering import run_numbers
from scheduler.store.opening import open_to_read
from scheduler.units import format_bytes, format_duration

BEAT_SECONDS = 60.0
LEAST_FREE_BYTES = 2 << 30
MOST_SHOWN = 10  # findings of one kind
_PACKAGES = ("torch", "celery", "tokenizers", "safetensors")


class Finding(NamedTuple):
    part: str
    level: str  # ok | note | wrong
    sentence: str
    hint: str | None = None


def findings(settings: Settings) -> Iterator[Finding]:
    """Run every check; a check that fails to run is a finding too."""
    yield from _attempted("home", lambda: _home(settings))
    yield from _packages()
    yield from _attempted("disk", lambda: _disk(settings))
    up = any(map(lock_held, settings.service_locks()))
    yield from _attempted("devices", lambda: _served(settings) if up else _devices(settings))
    yield from _attempted("database", lambda: _store(settings, up=up))


def _attempted(part: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except MmqError as error:
        yield Finding(part, "wrong", error.message, error.hint)
    except OSError as error:
        yield Finding(part, "wrong", f"{error.filename}: {error.strerror}")


def _home(settings: Settings) -> Iterator[Finding]:
    if not settings.home.exists():
        yield Finding("home", "note", f"{settings.home} is not there yet", "mmq up")
        return
    if not settings.home.is_dir():
        yield Finding("home", "wrong", f"{settings.home} is not a folder", "export MMQ_HOME=/another/folder")
        return
    status = settings.home.stat()
    if status.st_uid != os.getuid():
        yield Finding("home", "wrong", f"{settings.home} belongs to another user", "export MMQ_HOME=/another/folder")
    elif status.st_mode & 0o077 and not settings.holds_only_ours():
        sentence = f"{settings.home} holds other files, and other users can access it"
        yield Finding("home", "wrong", sentence, f"export MMQ_HOME={settings.home / 'mmq'}")
    elif stat.S_IMODE(status.st_mode) != 0o700:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        yield Finding("home", "wrong", f"{settings.home} has mode {mode}, not 0700", f"chmod 0700 {settings.home}")
    elif not os.access(settings.home, os.W_OK):
        yield Finding("home", "wrong", f"{settings.home} can't be written", f"findmnt -T {settings.home}")
    else:
        yield Finding("home", "ok", f"{settings.home} is private")
    yield from (_open_to_others(path) for path in private_files(settings) if _mode(path) & 0o077)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _open_to_others(path: Path) -> Finding:
    return Finding(
        "home", "wrong", f"{path} has mode {_mode(path):04o}: other users can access it", f"chmod 0600 {path}"
    )


def _packages() -> Iterator[Finding]:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("packages", "wrong", f"not installed: {', '.join(missing)}", "pip install mmq")
    else:
        yield Finding("packages", "ok", f"{', '.join(_PACKAGES)} are installed")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    level = "ok" if free >= LEAST_FREE_BYTES else "wrong"
    hint = None if level == "ok" else f"du -sh {settings.jobs_dir}/*"
    yield Finding("disk", level, f"{format_bytes(free)} free under {place}", hint)


def _served(settings: Settings) -> Iterator[Finding]:
    """What the running service reads, which may not be what this environment says."""
    with closing(open_to_read(settings)) as database:
        rows = views.devices(database)
    for row in rows:
        named = f"{row['kind']}:{row['number']} ({row['name']})"
        if row["error"]:
            yield Finding("devices", "wrong", f"{named}: {row['error']}", _device_hint(row["kind"]))
        elif row["used_bytes"] is None:
            yield Finding("devices", "note", f"{named}: not read yet")
        else:
            yield Finding("devices", "ok", f"{named}: {format_bytes(row['total_bytes'] - row['used_bytes'])} free")
    if not rows:
        yield Finding("devices", "wrong", "the service has found no devices", f"less {settings.log_dir}/controller.log")


def _devices(settings: Settings) -> Iterator[Finding]:
    with closing(open_devices(settings.devices, settings)) as devices:
        infos = {info.id: info for info in devices.discover()}
        for reading in devices.read():
            info = infos[reading.device_id]
            if reading.error:
                yield Finding(
                    "devices", "wrong", f"{info.label} ({info.name}): {reading.error}", _device_hint(info.kind)
                )
            else:
                free = format_bytes(reading.total_bytes - reading.used_bytes)
                yield Finding("devices", "ok", f"{info.label} ({info.name}): {free} free")
            yield from (Finding("devices", "note", f"{info.label}: {warning}") for warning in reading.warnings)
    if not infos:
        yield Finding("devices", "wrong", "there are none", "export MMQ_DEVICES=cpu")


def _device_hint(kind: str) -> str | None:
    return "nvidia-smi" if kind == "cuda" else None


def _store(settings: Settings, *, up: bool) -> Iterator[Finding]:
    path = sqlite_path(settings.database_url)
    if path is not None and not path.exists():
        yield Finding("database", "note", f"there is none at {path} yet", "mmq up")
        yield from _service(None, settings, up=up)
        return
    with closing(open_to_read(settings)) as database:
        broken = audit.violations(database)
        yield from (Finding("database", "wrong", sentence, "mmq db backup") for sentence in broken[:MOST_SHOWN])
        if not broken:
            yield Finding("database", "ok", "its invariants hold")
        for copy in partial_copies(settings):
            yield Finding("database", "note", f"{copy} was never completed: an upgrade was killed", recovery.FIX)
        yield from _service(database, settings, up=up)
        yield from _locks(database, settings, up=up)
        yield from _runs(database, settings)


def _runs(database: Database, settings: Settings) -> Iterator[Finding]:
    """Compare the run directories with the store: after a backup is restored they know more."""
    gaps = list(recovery.gaps(database, settings))
    for gap in gaps[:MOST_SHOWN]:
        level, hint = ("wrong", recovery.FIX) if gap.restorable else ("note", None)
        yield Finding("runs", level, gap.sentence, hint)
    if len(gaps) > MOST_SHOWN:
        yield Finding("runs", "note", f"and {len(gaps) - MOST_SHOWN:,} more like these")
    if not gaps:
        yield Finding("runs", "ok", "the database knows all that the run directories do")


def _service(database: Database | None, settings: Settings, *, up: bool) -> Iterator[Finding]:
    if not up:
        waiting = 0 if database is None else _unended(database)
        jobs = "1 job has" if waiting == 1 else f"{waiting} jobs have"
        sentence = "is not running" + (f", and {jobs} not ended" if waiting else "")
        yield Finding("service", "wrong" if waiting else "note", sentence, "mmq up")
        yield from _attempted("broker", lambda: _broker_at_rest(settings))
        return
    yield Finding("service", "ok", "is running")
    yield _broker(settings)
    if database is not None:
        yield from _beats(database, settings)


def _broker_at_rest(settings: Settings) -> Iterator[Finding]:
    if settings.broker_url is None:
        yield Finding("broker", "ok", f"embedded: {find_server()}")
    else:
        yield _broker(settings)


def _broker(settings: Settings) -> Finding:
    place = broker_address(settings).shown
    if reachable(settings, limit_seconds=2.0):
        return Finding("broker", "ok", f"answers at {place}")
    hint = "mmq down && mmq up" if settings.broker_url is None else "redis-cli -u $MMQ_BROKER_URL ping"
    return Finding("broker", "wrong", f"does not answer at {place}", hint)


def _unended(database: Database) -> int:
    counts = views.counts(database)
    return sum(counts.get(state, 0) for state in ("queued", "admitted", "running"))


def _beats(database: Database, settings: Settings) -> Iterator[Finding]:
    beats = {row["component"]: row for row in views.components(database)}
    for name in ("controller", "worker"):
        row = beats.get(f"{name}@{settings.host}")
        if row is None:
            yield Finding(name, "wrong", "has never shown a sign of life", f"tail {settings.log_dir}/*")
            continue
        age = time.time() - row["at"]
        alive = process_started(row["pid"]) == row["pid_started"]
        sentence = f"pid {row['pid']}, last sign of life {format_duration(age)} ago"
        if alive and age < BEAT_SECONDS:
            yield Finding(name, "ok", sentence)
        else:
            hung = "hangs" if alive else "has died"
            yield Finding(name, "wrong", f"{hung} ({sentence})", "mmq down && mmq up")


def _locks(database: Database, settings: Settings, *, up: bool) -> Iterator[Finding]:
    """Compare the attempts that the store says are running with the locks that live processes hold."""
    live = {attempt.job_id: attempt for attempt in attempts.live(database, settings.host)}
    running = {job_id for job_id, attempt in live.items() if attempt.pid is not None}
    held = {job_id for job_id in run_numbers(settings.jobs_dir) if lock_held(settings.run_dir(job_id) / TRAINER_LOCK)}
    for job_id in sorted(held - set(live)):
        sentence = f"processes of job {job_id} are still alive, but the database knows no attempt of it"
        yield Finding("locks", "wrong", sentence, f"fuser -v {settings.run_dir(job_id) / TRAINER_LOCK}")
    for job_id in sorted(running - held):
        sentence = f"job {job_id} should be running, but none of its processes is alive"
        yield Finding("locks", "note" if up else "wrong", sentence, "mmq up")
    if held <= set(live) and running <= held:
        yield Finding("locks", "ok", f"{len(held)} held, each by a live attempt" if held else "none is held")
