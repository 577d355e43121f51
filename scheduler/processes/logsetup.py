"""Points a long-lived process's logging at its stderr, in the one form that all of the service's logs have."""

import logging
import sys
from types import TracebackType

from scheduler.processes.loglines import log_line

EXTRA_FIELDS = ("job", "attempt", "device")  # that a record may have by `extra`


class LogLines(logging.Formatter):
    """A record as one line; a traceback is a field of it."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: getattr(record, name, None) for name in EXTRA_FIELDS}
        trace = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None
        return log_line(
            record.levelname.lower(),
            self._part,
            record.getMessage(),
            at=record.created,
            logger=record.name,
            **extra,
            trace=trace,
        )


def log_to_stderr(part: str) -> None:
    """Log from INFO on; an exception that nobody caught is logged too, before it ends the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLines(part))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = _uncaught


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("uncaught").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
