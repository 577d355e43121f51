"""Where a run's numbers go besides its own events: nowhere, unless CONFIG names a logger. One file each.

A logger that can't be started is a refusal; one that fails later is told of, and left alone from then on: no chart is
worth a run. Imports no logger that was not named.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import msgspec

from trainer.config import Config
from trainer.errors import BadConfiguration
from trainer.reporting.log import say


class Logger(Protocol):
    """Made with a run's directory, its name and its CONFIG."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Loggers:
    """All of a run's loggers as one."""

    def __init__(self, named: Mapping[str, Logger]) -> None:
        self._named = dict(named)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        for name, logger in list(self._named.items()):
            try:
                logger.log(step, known)
            except Exception as error:  # noqa: BLE001 (a foreign library, which may raise anything)
                del self._named[name]
                say(f"{name} fails and gets no more numbers: {type(error).__name__}: {error}")

    def close(self) -> None:
        for name, logger in self._named.items():
            try:
                logger.close()
            except Exception as error:  # noqa: BLE001
                say(f"{name} could not be closed: {type(error).__name__}: {error}")


@contextmanager
def open_loggers(names: Sequence[str], config: Config, run_dir: Path) -> Iterator[Loggers]:
    """Start those named; BadConfiguration for what is not installed, or will not start."""
    require_installed(names)
    loggers = Loggers({name: _open(name, config, run_dir) for name in names})
    try:
        yield loggers
    finally:
        loggers.close()


def require_installed(names: Sequence[str]) -> None:
    for name in names:
        if find_spec(name) is None:
            raise BadConfiguration(f"report: {name} is not installed\nhint: pip install {name}")


def _open(name: str, config: Config, run_dir: Path) -> Logger:
    settings: dict[str, Any] = msgspec.to_builtins(config)
    try:
        return importlib.import_module(f"trainer.reporting.loggers.{name}").open_logger(run_dir, settings)
    except Exception as error:  # noqa: BLE001
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfiguration(f"report: {name} could not be started: {reason}") from None
