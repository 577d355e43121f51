"""The private directory that sockets live in, and how a socket of ours comes to be there.

Owns modes and ownership of sockets. Standard library only: `mmq submit` loads this.
"""

import os
import socket
import stat
from pathlib import Path

from scheduler.config import Settings
from scheduler.errors import NotPermitted


def create_sockets_dir(settings: Settings) -> Path:
    """Make the directory, mode 0700; NotPermitted if another user made it first (it may lie under /tmp)."""
    directory = settings.sockets_dir
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    link, target = directory.lstat(), directory.stat()  # a link of your own is your business
    if {link.st_uid, target.st_uid} != {os.getuid()} or not stat.S_ISDIR(target.st_mode):
        raise NotPermitted(f"{directory} does not belong to you", hint=f"ls -ld {directory}")
    directory.chmod(0o700)
    return directory


def bind_private(bell: socket.socket, path: Path) -> None:
    """Bind a unix socket at path, mode 0600 from its first moment, in place of a stale one."""
    path.unlink(missing_ok=True)
    os.fchmod(bell.fileno(), 0o600)  # Linux gives the file the mode of the unbound socket
    bell.bind(str(path))
