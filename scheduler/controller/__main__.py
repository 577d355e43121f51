"""The controller process: `python -m scheduler.controller`."""

import logging
import os
import sys
from contextlib import closing

from scheduler.broker.doorbell import Doorbell, ring
from scheduler.config import Settings
from scheduler.controller.broker import BrokerPublisher
from scheduler.controller.lock import refuse_second, sole_controller
from scheduler.controller.loop import Stop, run
from scheduler.controller.service import Controller, Identity
from scheduler.devices.choice import open_devices
from scheduler.errors import MmqError
from scheduler.footprint.tracer import Tracer
from scheduler.processes.liveness import process_started
from scheduler.processes.logsetup import log_to_stderr
from scheduler.store.opening import open_database

log = logging.getLogger("scheduler.controller")


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    log_to_stderr("controller")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = Settings.from_environment()
    try:
        with sole_controller(settings):
            serve(settings)
    except MmqError as error:
        log.error("%s%s", error.message, f"; hint: {error.hint}" if error.hint else "")  # the last line is shown
        return int(error.exit_code)
    return 0


def serve(settings: Settings) -> None:
    """Open store, devices, doorbell and tracer, and work until asked to stop."""
    stop = Stop()
    with (
        stop.on_signals(),
        closing(open_database(settings, lean=False, create=True)) as db,
        Doorbell.listen(settings) as bell,
        closing(open_devices(settings.devices, settings)) as devices,
        closing(Tracer(on_answer=lambda: ring(settings))) as tracer,
    ):
        refuse_second(db, settings)
        controller = Controller(
            db=db,
            settings=settings,
            devices=devices,
            tracer=tracer,
            publisher=BrokerPublisher(settings),
            identity=Identity(pid=os.getpid(), pid_started=process_started(os.getpid()) or 0),
        )
        log.info("serving %s", settings.home)
        run(controller, bell, stop)
    log.info("ended")


if __name__ == "__main__":
    sys.exit(main())
