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

Item = TypeVar("Item")


def map_in_forks(items: Sequence[Item], function: Callable[[Item], Any], workers: int) -> list[Any]:
    """Call the function on each item, dealt out among so many processes; its results must be JSON.

    BadConfiguration where the function raises it, RuntimeError where one fails otherwise.
    """
    workers = min(workers, len(items))
    children = [_fork(items[number::workers], function) for number in range(1, workers)]
    results = [[function(item) for item in items[::workers]], *(_join(*child) for child in children)]
    return [results[number % workers][number // workers] for number in range(len(items))]


def _fork(items: Sequence[Item], function: Callable[[Item], Any]) -> tuple[int, int]:
    """Start a child on some items; give its pid, and the end of a pipe from which to read its results."""
    parent = os.getpid()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    code = ExitCode.FAILED
    try:
        die_with_parent()
        if os.getppid() == parent:
            code = _write_results(write_end, items, function)
    except Exception:  # noqa: BLE001 (printed here, since nothing of it reaches the parent)
        traceback.print_exc()
    finally:
        os._exit(code)


def _write_results(write_end: int, items: Sequence[Item], function: Callable[[Item], Any]) -> ExitCode:
    with os.fdopen(write_end, "wb") as pipe:
        try:
            pipe.write(msgspec.json.encode([function(item) for item in items]))
        except BadConfiguration as error:
            pipe.write(str(error).encode())
            return ExitCode.BAD_CONFIGURATION
        return ExitCode.DONE


def _join(pid: int, read_end: int) -> list[Any]:
    with os.fdopen(read_end, "rb") as pipe:
        output = pipe.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == ExitCode.BAD_CONFIGURATION:
        raise BadConfiguration(output.decode())
    if code:
        raise RuntimeError(f"a part of the trace ended with {code}")
    results: list[Any] = msgspec.json.decode(output)
    return results
