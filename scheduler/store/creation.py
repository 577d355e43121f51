"""Make the store in a process of its own: `python -m scheduler.store.creation`.

Migrations load Alembic and SQLAlchemy, which neither a short command nor a supervisor should carry.
"""

import os
import subprocess
import sys

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.processes.interpreter import python_command, with_source


def create_apart(settings: Settings) -> None:
    """Make the schema where there is none, in a process of its own; MmqError if that fails."""
    home = {"MMQ_HOME": str(settings.home), "MMQ_DATABASE_URL": settings.database_url}
    process = subprocess.run(
        python_command("scheduler.store.creation"),
        env=with_source(os.environ) | home,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        message, _, hint = process.stderr.strip().partition("\nhint: ")
        reason = message or "no reason given"
        raise MmqError(f"the database could not be made: {reason}", hint=hint or "mmq db upgrade")


def main() -> int:
    from scheduler.store.upgrade import create_missing

    try:
        create_missing(Settings.from_environment())
    except MmqError as error:
        sys.stderr.write(error.message + (f"\nhint: {error.hint}" if error.hint else "") + "\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
