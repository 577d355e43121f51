"""Keeps the details of an unexpected error in a file, so that a terminal shows one line. Loaded only then."""

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from scheduler.config import Settings
from scheduler.errors import MmqError

KEPT = 50


def write_details(error: Exception) -> Path:
    """Write the traceback to the log directory, or where that can't be written, to the temporary one."""
    text = f"mmq {' '.join(sys.argv[1:])}\npython {sys.version}\n\n" + "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        settings = Settings.from_environment()
        settings.create_home()
        settings.log_dir.mkdir(mode=0o700, exist_ok=True)
        path = settings.log_dir / name
        path.write_text(text)
        for old in sorted(settings.log_dir.glob("error-*.txt"))[:-KEPT]:  # by their names in the order of time
            old.unlink(missing_ok=True)
    except (OSError, MmqError):
        descriptor, temporary = tempfile.mkstemp(prefix="mmq-", suffix=f"-{name}")
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        path = Path(temporary)
    return path
