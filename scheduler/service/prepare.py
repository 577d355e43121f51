"""Make the database in a process of its own: `python -m scheduler.service.prepare`.

Migrations load Alembic and SQLAlchemy, which a supervisor should not carry for the rest of its life.
"""

import sys

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.store.database import open_database


def main() -> int:
    try:
        open_database(Settings.from_environment(), lean=True, create=True).close()
    except MmqError as error:
        sys.stderr.write(error.message + (f"\nhint: {error.hint}" if error.hint else "") + "\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
