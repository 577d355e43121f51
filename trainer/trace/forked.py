"""Work shared among processes that are forks of this one: what was imported and learnt before, all have.

Owns the children; each ends with us. Only for a process of one thread, as a tracer is.
"""

import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from trainer.errors import BadConfiguration, ExitCode
from trainer.processes.launched import die_with_parent

Piece = TypeVar("Piece")


def shared_out(pieces: Sequence[Piece], do: Callable[[Piece], Any], workers: int) -> list[Any]:
    """Do each piece, dealt out among so many processes; what `do` gives must be JSON.

    BadConfiguration where `do` raises it, RuntimeError where one fails otherwise.
    """
    workers = min(workers, len(pieces))
    children = [_begin(pieces[number::workers], do) for number in range(1, workers)]
    done = [[do(piece) for piece in pieces[::workers]], *(_end(*child) for child in children)]
    return [done[number % workers][number // workers] for number in range(len(pieces))]


def _begin(pieces: Sequence[Piece], do: Callable[[Piece], Any]) -> tuple[int, int]:
    """Start a child on some pieces; give its number, and where it will tell what came of them."""
    asker = os.getpid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = ExitCode.FAILED
    try:
        die_with_parent()
        if os.getppid() == asker:
            code = _tell(writing, pieces, do)
    except Exception:  # noqa: BLE001 (said here, since nothing of it reaches who forked us)
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(writing: int, pieces: Sequence[Piece], do: Callable[[Piece], Any]) -> ExitCode:
    with os.fdopen(writing, "wb") as told:
        try:
            told.write(msgspec.json.encode([do(piece) for piece in pieces]))
        except BadConfiguration as error:
            told.write(str(error).encode())
            return ExitCode.BAD_CONFIGURATION
        return ExitCode.DONE


def _end(pid: int, reading: int) -> list[Any]:
    with os.fdopen(reading, "rb") as told:
        answer = told.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == ExitCode.BAD_CONFIGURATION:
        raise BadConfiguration(answer.decode())
    if code:
        raise RuntimeError(f"a part of the trace ended with {code}")
    done: list[Any] = msgspec.json.decode(answer)
    return done
