"""Work shared among processes that are forks of this one: what was imported and learnt before, all have.

Owns the children; each ends with us. Only for a process of one thread, as a tracer is.
"""

import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from trainer.processes.launched import die_with_parent

Piece = TypeVar("Piece")


def shared_out(pieces: Sequence[Piece], do: Callable[[Piece], Any], workers: int) -> list[Any]:
    """Do each piece, dealt out among so many processes; what `do` gives must be JSON. RuntimeError if one fails."""
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
    code = 1
    try:
        die_with_parent()
        if os.getppid() == asker:
            with os.fdopen(writing, "wb") as told:
                told.write(msgspec.json.encode([do(piece) for piece in pieces]))
            code = 0
    except Exception:  # noqa: BLE001 (said here, since nothing of it reaches who forked us)
        traceback.print_exc()
    finally:
        os._exit(code)


def _end(pid: int, reading: int) -> list[Any]:
    with os.fdopen(reading, "rb") as told:
        answer = told.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a part of the trace ended with {os.waitstatus_to_exitcode(status)}")
    done: list[Any] = msgspec.json.decode(answer)
    return done
