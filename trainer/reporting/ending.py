"""How a run ended: `result.json` in the run directory, whichever of its processes knows.

Owns the file and who may write it. torchrun gives back 1 for any failure and keeps no word of it; here the exit code
and the message stay. The first process's own end counts; where it only lost another, that one's does.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from trainer.errors import ExitCode, LostProcess
from trainer.files.storage import read_record, write_file

NAME = "result.json"
DONE = "done"


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    reason: str  # of the `failed` event, or `done`
    message: str
    rank: int  # of the process that knows

    @property
    def is_loss_of_another(self) -> bool:
        return self.reason == LostProcess.reason


def begin(run_dir: Path) -> None:
    """Forget how an earlier attempt ended; the first process does this."""
    (run_dir / NAME).unlink(missing_ok=True)


def settle(run_dir: Path, ending: Ending) -> Ending:
    """Leave word of how this process ended, and give how the run did."""
    if ending.is_loss_of_another or ending.rank > 0:
        known = _known(run_dir)
        if known is None:
            _put_if_absent(run_dir, ending)
            known = _known(run_dir) or ending
        return known if ending.rank == 0 else ending
    with contextlib.suppress(OSError):
        write_file(run_dir / NAME, _content(ending))
    return ending


def _known(run_dir: Path) -> Ending | None:
    try:
        return msgspec.json.decode(read_record(run_dir / NAME), type=Ending)
    except (OSError, ValueError, RecursionError):
        return None


def _put_if_absent(run_dir: Path, ending: Ending) -> None:
    """Write the file unless another process does in the same moment."""
    if ending.exit_code == ExitCode.DONE:
        return  # the first process may still be writing the result
    aside = run_dir / f".tmp-{NAME}-{ending.rank}"
    with contextlib.suppress(OSError):
        aside.write_bytes(_content(ending))
        os.link(aside, run_dir / NAME)
    aside.unlink(missing_ok=True)


def _content(ending: Ending) -> bytes:
    return msgspec.json.format(msgspec.json.encode(ending)) + b"\n"
