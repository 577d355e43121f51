"""Which children a service has, how each is started, and when it counts as ready."""

import os
from collections.abc import Mapping
from contextlib import closing

from scheduler.broker import valkey
from scheduler.broker.reach import reachable
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.processes.interpreter import python_command, with_source
from scheduler.service.child import Role
from scheduler.store import heartbeats
from scheduler.store.location import sqlite_path
from scheduler.store.opening import open_database

BROKER, CONTROLLER, WORKER = "broker", "controller", "worker"
ALL = (BROKER, CONTROLLER, WORKER)


def roles(settings: Settings, devices: str | None, only: tuple[str, ...] = ALL) -> list[Role]:
    """The children in the order they are started; the broker is ours only without MMQ_BROKER_URL."""
    environment = child_environment(settings, devices)
    chosen = []
    if BROKER in only and settings.broker_url is None:
        chosen.append(_broker(settings))
    for name, module in ((CONTROLLER, "scheduler.controller"), (WORKER, "worker")):
        if name in only:
            chosen.append(_program(settings, name, module, environment))
    return chosen


def child_environment(settings: Settings, devices: str | None) -> dict[str, str]:
    """Our settings spelled out with absolute paths, because a child has another working directory."""
    path = sqlite_path(settings.database_url)
    return with_source(os.environ) | {
        "MMQ_HOME": str(settings.home),
        "MMQ_HOST": settings.host,
        "MMQ_DEVICES": devices or settings.devices,
        "MMQ_DATABASE_URL": settings.database_url if path is None else f"sqlite:///{path}",
    }


def _broker(settings: Settings) -> Role:
    return Role(
        name=BROKER,
        command=tuple(valkey.server_command(settings)),
        environment={},
        directory=settings.broker_dir,
        log=settings.log_dir / "broker.log",
        is_ready=lambda _: reachable(settings),
        goes_first=True,
        repair=lambda: valkey.set_aside(settings),
        socket=settings.broker_socket,
    )


def _program(settings: Settings, name: str, module: str, environment: Mapping[str, str]) -> Role:
    return Role(
        name=name,
        command=tuple(python_command(module)),
        environment=environment,
        directory=settings.home,
        log=settings.log_dir / f"{name}.log",
        is_ready=lambda pid: _has_beaten(settings, f"{name}@{settings.host}", pid),
        socket=settings.doorbell_socket if name == CONTROLLER else None,
    )


def _has_beaten(settings: Settings, component: str, pid: int) -> bool:
    try:
        with closing(open_database(settings, lean=True)) as database:
            return any(row.component == component and row.pid == pid for row in heartbeats.all(database))
    except MmqError:
        return False
