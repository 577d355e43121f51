"""`python -m trainer CONFIG.json RUN_DIR`: run a training job to its end. Needs no mmq around it.

Owns the exit code and the `failed` event. Imports torch only when there is something to train.
"""

import contextlib
import sys
import traceback
from pathlib import Path

from trainer.config import Config, read_config
from trainer.errors import BadData, DiskFull, ExitCode, OutOfHostMemory, TrainerError
from trainer.files.storage import is_full
from trainer.garbage import frozen_imports
from trainer.memory.refusal import is_host_refusal
from trainer.processes import launched
from trainer.reporting import ending
from trainer.reporting.ending import Ending
from trainer.reporting.events import EventLog
from trainer.reporting.log import be_silent
from trainer.reporting.loggers import require_installed
from trainer.stopping import StopRequest

USAGE = "usage: python -m trainer CONFIG.json RUN_DIR"
HELP = f"""{USAGE}

Trains a MiniMind-family language model as CONFIG.json says, and leaves everything in RUN_DIR: events.jsonl,
checkpoints/, final/. If run again on the same directory, it goes on from the newest complete checkpoint. The
smallest CONFIG.json:

  {{"kind": "pretrain", "data": {{"path": "rows.jsonl"}}}}

rows.jsonl has lines like {{"text": "..."}}, or for "kind": "sft" like
{{"conversations": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]}}

SIGTERM saves and exits with 75. Exit codes: 0 done, 1 failed, 2 bad configuration, 3 bad data, 75 stopped,
80 out of device memory, 81 loss not finite, 82 time limit. Every key of CONFIG.json: docs/trainer.md.
"""


def main(arguments: list[str]) -> int:
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return ExitCode.DONE
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
    events, code, reason, message, rank = EventLog(None), ExitCode.DONE, ending.DONE, "", 0
    try:
        rank = launched.rank()
        launched.end_with_launcher()
        events = _events_of(run_dir, rank)
        config = read_config(config_path)
        events.attempt, events.limit_bytes = config.attempt, config.events_bytes
        _run(config, run_dir, events, stop)
    except TrainerError as error:
        code, reason, message = error.exit_code, error.reason, str(error)
    except Exception as error:  # noqa: BLE001 (a defect of ours: tell all, and leave an event)
        if is_full(error):
            code, reason, message = DiskFull.exit_code, DiskFull.reason, f"no room to write any more: {error}"
        elif is_host_refusal(error):
            code, reason, message = OutOfHostMemory.exit_code, OutOfHostMemory.reason, OutOfHostMemory.told(error)
        else:
            with contextlib.suppress(OSError):
                traceback.print_exc()
            code, reason, message = ExitCode.FAILED, "exit_code", f"{type(error).__name__}: {error}"
    ended = ending.settle(run_dir, Ending(exit_code=code, reason=reason, message=message, rank=rank))
    if code != ExitCode.DONE:
        _tell(events, ended)
    return ended.exit_code


def _events_of(run_dir: Path, rank: int) -> EventLog:
    """Open the run's events; of several processes the first alone tells what happens."""
    if rank == 0:
        ending.begin(run_dir)
        return EventLog(run_dir / "events.jsonl")
    be_silent()
    return EventLog(None)


def _run(config: Config, run_dir: Path, events: EventLog, stop: StopRequest) -> None:
    if (run_dir / "final").is_dir():
        print(f"{run_dir / 'final'} is complete already")
        return
    for path in _inputs(config):
        if not path.exists():
            raise BadData(str(path), None, None, "no such file", "check data.path and data.validation")
    require_installed(config.report)
    with frozen_imports():
        from trainer.session import run_session  # torch takes two seconds to import
    run_session(config, run_dir, events, stop)


def _inputs(config: Config) -> list[Path]:
    validation = config.data.validation
    return [Path(config.data.path)] + ([Path(validation)] if isinstance(validation, str) else [])


def _tell(events: EventLog, ended: Ending) -> None:
    with contextlib.suppress(OSError):  # a full disk holds the log, too
        print(ended.message, file=sys.stderr, flush=True)
    try:
        rank = {"rank": ended.rank} if ended.rank else {}
        events.write("failed", exit_code=ended.exit_code, reason=ended.reason, message=ended.message, **rank)
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"and the event could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    launched.leave(main(sys.argv[1:]))
