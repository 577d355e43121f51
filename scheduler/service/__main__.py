"""The service in the foreground: what `mmq up --detach` starts, and what a container runs.

`--only ROLE` runs a part of it, `--stop-jobs` ends running jobs after they saved when it is told to stop: a
container takes everything with it, so there nothing may be left running.
"""

import argparse
import sys

from scheduler.config import Settings
from scheduler.errors import ExitCode, MmqError
from scheduler.service.down import stop_all_jobs
from scheduler.service.roles import ALL
from scheduler.service.up import prepare, say, serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scheduler.service", description=__doc__)
    parser.add_argument("--only", choices=ALL, action="append", help="run just this; may be given again")
    parser.add_argument("--stop-jobs", action="store_true", help="when told to stop, let running jobs save and end")
    options = parser.parse_args()
    settings = Settings.from_environment()
    try:
        prepare(settings, None)
        if not serve(settings, None, tuple(options.only or ALL)):
            raise MmqError(f"another service is running for {settings.home}", hint="mmq down")
        return stop_all_jobs(settings) if options.stop_jobs else int(ExitCode.OK)
    except MmqError as error:
        say(error.message + (f" (hint: {error.hint})" if error.hint else ""))
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
