"""A PostgreSQL server of a test's own, where its programs are installed: on the PATH, or by `pip install pgserver`.

`python -m tests.postgres COMMAND...` runs a command with MMQ_TEST_POSTGRES_URL naming one.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534  # PostgreSQL refuses to be run by root


def programs() -> Path | None:
    """The folder with `initdb`, `pg_dump` and all the others; a system may have links to some of them on its PATH."""
    bundled = importlib.util.find_spec("pgserver")
    if bundled is not None and bundled.origin is not None:
        return Path(bundled.origin).parent / "pginstall" / "bin"
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def server() -> Iterator[str]:
    """Run a server that listens on a socket alone; the URL of an empty database."""
    found = programs()
    assert found is not None
    owner = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="mmq-pg-") as name:
        folder = Path(name)
        if owner:
            os.chown(folder, NOBODY, NOBODY)
        data = folder / "data"
        make = [found / "initdb", "-D", data, "-U", "mmq", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run(make, cwd=folder, check=True, capture_output=True, **owner)
        quick = ["-c", "listen_addresses=", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen(
                [found / "postgres", "-D", data, "-k", folder, *quick], cwd=folder, stdout=log, stderr=log, **owner
            )
        try:
            _until_ready(found, folder, running)
            yield f"postgresql://mmq@/postgres?host={folder}"
        finally:
            running.terminate()
            running.wait(30)


def _until_ready(found: Path, folder: Path, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([found / "pg_isready", "-q", "-h", folder], check=False).returncode:
        assert running.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


if __name__ == "__main__":
    with server() as url:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | {"MMQ_TEST_POSTGRES_URL": url}, check=False).returncode)
