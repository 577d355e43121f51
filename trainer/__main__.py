"""`python -m trainer CONFIG.json RUN_DIR`: run a training job to its end. Needs no mmq around it.

Owns the exit code and the `failed` event. Imports torch only when there is something to train.
"""

import contextlib
import sys
import traceback
from pathlib import Path

from trainer.config import Config, read_config
from trainer.errors import BadData, DiskFull, ExitCode, TrainerError
from trainer.events import EventLog
from trainer.heavy import kept_to_the_end
from trainer.stopping import StopRequest
from trainer.storage import is_full

USAGE = "usage: python -m trainer CONFIG.json RUN_DIR"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(USAGE, file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION
    stop = StopRequest()
    stop.listen()
    config_path, run_dir = Path(arguments[0]), Path(arguments[1])
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"{run_dir}: {error.strerror}", file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION
    events = EventLog(run_dir / "events.jsonl")
    try:
        config = read_config(config_path)
        events.attempt = config.attempt
        _run(config, run_dir, events, stop)
    except TrainerError as error:
        return _failed(events, error.exit_code, error.reason, str(error))
    except Exception as error:  # noqa: BLE001 (a defect of ours: tell all, and leave an event)
        if is_full(error):
            return _failed(events, DiskFull.exit_code, DiskFull.reason, f"no room to write any more: {error}")
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return _failed(events, ExitCode.FAILED, "exit_code", f"{type(error).__name__}: {error}")
    return ExitCode.DONE


def _run(config: Config, run_dir: Path, events: EventLog, stop: StopRequest) -> None:
    if (run_dir / "final").is_dir():
        print(f"{run_dir / 'final'} is complete already")
        return
    for path in _inputs(config):
        if not path.exists():
            raise BadData(str(path), None, None, "no such file", "check data.path and data.validation")
    with kept_to_the_end():
        from trainer.session import run_session  # torch takes two seconds to import
    run_session(config, run_dir, events, stop)


def _inputs(config: Config) -> list[Path]:
    validation = config.data.validation
    return [Path(config.data.path)] + ([Path(validation)] if isinstance(validation, str) else [])


def _failed(events: EventLog, code: ExitCode, reason: str, message: str) -> int:
    with contextlib.suppress(OSError):  # a full disk holds the log, too
        print(message, file=sys.stderr, flush=True)
    try:
        events.write("failed", exit_code=code, reason=reason, message=message)
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"and the event could not be written: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
