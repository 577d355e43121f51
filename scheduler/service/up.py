"""`mmq up`: prepare the home, take the lock, and supervise here or in the background."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from scheduler.broker.address import broker_address
from scheduler.broker.reach import reachable
from scheduler.config import Settings
from scheduler.devices.choice import open_devices
from scheduler.errors import ExitCode, MmqError, NoDatabase, Unreachable
from scheduler.processes.interpreter import python_command
from scheduler.processes.loglines import log_line
from scheduler.service.lock import Holder, ServiceLock, holder, last_devices
from scheduler.service.logs import last_line, open_log, rotate
from scheduler.service.roles import ALL, child_environment, roles
from scheduler.service.supervisor import Supervisor
from scheduler.store.creation import create_apart
from scheduler.store.opening import open_database

READY_SECONDS = 60.0
BROKER_SECONDS = 5.0  # for a broker that is not ours to start
FAILING_SECONDS = 15.0
LOG = "service.log"


def up(settings: Settings, devices: str | None, detach: bool) -> int:
    """Start the service, or say who runs it already. Returns the exit code; MmqError if it can't be prepared."""
    before = None if devices else _as_before(settings)
    devices = devices or before
    prepare(settings, devices)
    running = holder(settings.service_lock)
    if running is not None:
        return _already(settings, running, devices)
    if before is not None:
        print(f"note: {_chosen_again(before, settings)}", file=sys.stderr)
    if detach:
        return _in_background(settings, devices)
    return int(ExitCode.OK) if serve(settings, devices) else _already(settings, holder(settings.service_lock), devices)


def _as_before(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """The `--devices` of the last service here, where none are specified now."""
    before = None if environment.get("MMQ_DEVICES") else last_devices(settings.service_lock)
    return None if before == settings.devices else before


def _chosen_again(devices: str, settings: Settings) -> str:
    return f"using the same devices as last time, {devices}; `mmq up --devices {settings.devices}` changes that"


def serve(settings: Settings, devices: str | None, only: tuple[str, ...] = ALL) -> bool:
    """Run the service, or these roles of it, until told to stop; False if another runs. Call `prepare` first."""
    os.umask(0o077)  # whatever we, our children and their trainers write is nobody else's to read
    path = lock_path(settings, only)
    chosen = devices or settings.devices
    lock = ServiceLock.take(path, chosen)
    if lock is None:
        return False
    try:
        supervisor = Supervisor(
            roles(settings, devices, only),
            lock,
            children=path.with_suffix(".children"),
            log=settings.log_dir / LOG,
            say=say,
        )
        supervisor.run(lambda: say(f"mmq is up: {_described(settings, chosen)}; ^C or `mmq down` stops it"))
    finally:
        lock.release()
    return True


def prepare(settings: Settings, devices: str | None) -> None:
    """Make the home and the database; check the broker's address and the choice of devices."""
    settings.create_home()
    broker_address(settings)  # refuse what is none here, where the person sees it
    _check_devices(settings, devices or settings.devices)
    prepare_database(settings)


def lock_path(settings: Settings, only: tuple[str, ...] = ALL) -> Path:
    if set(only) == set(ALL):
        return settings.service_lock
    return settings.service_lock.with_name(f"service-{'-'.join(sorted(only))}.lock")


def prepare_database(settings: Settings) -> None:
    """Make the database if there is none; SchemaMismatch if there is another revision's."""
    try:
        open_database(settings, lean=True).close()
    except NoDatabase:
        create_apart(settings)
        open_database(settings, lean=True).close()


def _in_background(settings: Settings, devices: str | None) -> int:
    log = settings.log_dir / LOG
    rotate(log)
    descriptor = open_log(log)
    try:
        process = subprocess.Popen(
            python_command("scheduler.service"),
            env=child_environment(settings, devices),
            cwd=settings.home,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    service = _wait_until_ready(settings, process)
    if service is not None and service.ready:
        print(f"mmq is up (pid {service.pid}): {_described(settings, service.devices)}")
        return int(ExitCode.OK)
    if service is None:
        raise MmqError(f"the service ended at once: {last_line(log) or 'it said nothing'}", hint=f"less {log}")
    if _broker_is_away(settings):
        raise Unreachable(
            f"the service (pid {service.pid}) runs, but the broker at {broker_address(settings).shown} does not answer;"
            " jobs start once it does",
            hint="mmq doctor",
        )
    raise MmqError(
        f"the service (pid {service.pid}) is running and keeps trying, but is not ready: {service.problem}",
        hint=f"mmq down  # or see {settings.log_dir}/*.log",
    )


def _wait_until_ready(settings: Settings, process: "subprocess.Popen[bytes]") -> Holder | None:
    """Return the lock's holder once it is ready, or when waiting on is of no use; None if the service has ended.

    A child that keeps ending, or a broker that is away, is rarely cured by waiting longer.
    """
    began = time.monotonic()
    while (waited_seconds := time.monotonic() - began) < READY_SECONDS:
        ended = process.poll() is not None
        service = holder(settings.service_lock)
        if (service and service.ready) or (ended and service is None):
            return service
        if service and waited_seconds > BROKER_SECONDS and _broker_is_away(settings):
            return service
        if service and service.failing and waited_seconds >= FAILING_SECONDS:
            return service
        time.sleep(0.05)
    return holder(settings.service_lock)


def _broker_is_away(settings: Settings) -> bool:
    return settings.broker_url is not None and not reachable(settings)


def _already(settings: Settings, running: Holder | None, devices: str | None) -> int:
    if running is None:
        raise MmqError(f"another service of {settings.home} has just ended", hint="mmq up")
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(running.since))
    state = "running" if running.ready else "starting"
    place = f"{settings.home}: pid {running.pid}, devices {running.devices}, since {since}"
    print(f"mmq is already {state} for {place}; `mmq down` stops it")
    if running.failing:
        raise MmqError(f"it keeps trying, but is not ready: {running.problem}", hint="mmq down")
    if devices not in (None, running.devices):
        hint = f"mmq down && mmq up --detach --devices {devices}"
        raise MmqError(f"it runs on devices {running.devices}, not on {devices}; running jobs stay", hint=hint)
    return int(ExitCode.OK)


def _check_devices(settings: Settings, spec: str) -> None:
    """Refuse a misspelt choice here, where the person sees it. GPUs are read by the controller."""
    if spec.strip() not in ("auto", "cuda"):
        open_devices(spec, settings).close()


def _described(settings: Settings, devices: str) -> str:
    broker = broker_address(settings).shown
    return f"home {settings.home}, devices {devices}, broker {broker}, logs {settings.log_dir}"


def say(line: str) -> None:
    """Write a line for the person at the terminal, or else to the log."""
    on_terminal = sys.stderr.isatty()
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}" if on_terminal else log_line("info", "service", line)
    with contextlib.suppress(OSError):  # a full disk must not end the service
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
