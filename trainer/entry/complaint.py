"""What is said of a loop that can't be traced: what happened, where, and what helps; each in one line.

Owns the words, of errors of the loop's own as of what the emulation lacks.
"""

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.entry.unknown import NoKernel, Untraceable

LONGEST = 300  # characters of an error's own words
_OURS = Path(__file__).resolve().parents[1]
_STANDARD = Path(sysconfig.get_path("stdlib"))
_INSTALLED = ("site-packages", "dist-packages")
_OVERLOADS = " but expected one of"  # of torch's, after which it lists every way to call a function
_KINDS = {bool: "true or false", int: "a whole number", float: "a fraction", str: "text"}


def complaint(error: BaseException, request: Mapping[str, Any]) -> dict[str, str]:
    """Tell an error as the answer to a request: `error`, and `hint` where something is known to help."""
    if isinstance(error, NoKernel):
        return {"error": f"{error} ({_place(error)})"}
    if isinstance(error, Untraceable):
        return {"error": str(error)}
    if isinstance(error, SyntaxError) and Path(error.filename or "").is_file():  # else of a text that the loop reads
        return {
            "error": f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})",
            "hint": f"mend that line; {sys.executable} -m py_compile {error.filename} shows it too",
        }
    if isinstance(error, SystemExit):
        return _of_exit(error)
    if "SparseTensorImpl" in str(error):
        return {
            "error": f"sparse tensors, like the gradients of Embedding(sparse=True), are not traced ({_place(error)})",
            "hint": "let an argument (--set) make them dense, which takes more: the gradient is as large as the table",
        }
    reply = {"error": f"{_words(error)} ({_place(error)})"}
    hint = _of_imports(error) or _of_settings(error, request)
    return reply | ({"hint": hint} if hint else {})


def _of_exit(error: SystemExit) -> dict[str, str]:
    refused = _refused_arguments(error.__traceback__)
    if refused is not None:
        return {
            "error": f"the loop reads the command line, which is empty here: {refused} ({_place(error)})",
            "hint": "give FUNCTION arguments in place of the command line's, for --set NAME=VALUE",
        }
    how = (
        f"with exit code {error.code or 0}"
        if isinstance(error.code, int | None)
        else f'saying "{_cut(str(error.code))}"'
    )
    return {
        "error": f"the loop ended its process itself, {how} ({_place(error)})",
        "hint": 'FUNCTION and the step must return; what ends a program goes under if __name__ == "__main__"',
    }


def _refused_arguments(trace: TracebackType | None) -> str | None:
    """Find what argparse had to say before it ended the process."""
    for frame, _ in traceback.walk_tb(trace):
        if frame.f_code.co_filename.endswith("argparse.py") and frame.f_code.co_name == "error":
            return _cut(str(frame.f_locals.get("message")))
    return None


def _of_settings(error: BaseException, request: Mapping[str, Any]) -> str | None:
    """Name a setting that is of another kind than the argument it is given to, where that may be the reason."""
    if not isinstance(error, TypeError | ValueError):
        return None
    module = sys.modules.get(Path(request["file"]).stem)
    function = getattr(module, request["function"], None)
    for name, value, kind in _unlike(function, request["settings"]) if callable(function) else ():
        return (
            f"{request['function']} takes {_KINDS[kind]} for {name}; --set {name}={value} gives {_KINDS[type(value)]}"
        )
    return None


def _unlike(function: Any, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any, type]]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some that are written in C have none
        return
    for name, value in settings.items():
        known = parameters.get(name)
        if known is None or type(value) not in _KINDS:
            continue
        wanted = next((kind for kind in _KINDS if known.annotation in (kind, kind.__name__)), type(known.default))
        if wanted in _KINDS and type(value) is not wanted and (wanted, type(value)) != (float, int):
            yield name, value, wanted


def _of_imports(error: BaseException) -> str | None:
    if not isinstance(error, ModuleNotFoundError):
        return None
    return f"{sys.executable} has no such module: name the loop's own interpreter, --python PATH/TO/.venv/bin/python"


def _words(error: BaseException) -> str:
    """Give an error's kind and its first line, without torch's list of all the ways to call a function."""
    words = _cut(str(error).partition(_OVERLOADS)[0])
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _cut(words: str) -> str:
    """Give the first line, and not too much of it."""
    line = (words.strip().splitlines() or [""])[0].rstrip(",: ")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _place(error: BaseException) -> str:
    """Name the last line of the person's own, and where in a library of theirs it led to."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(Path(frame.filename))]
    own = [frame for frame in theirs if not _is_installed(Path(frame.filename))]
    last = (theirs or list(frames))[-1]
    if not own or own[-1] is last:
        return f"{last.filename}:{last.lineno}"
    return f"{own[-1].filename}:{own[-1].lineno}, in {last.filename}:{last.lineno}"


def _is_theirs(file: Path) -> bool:
    """Say whether it is the person's, or a library's that they use; torch is neither."""
    if not file.is_absolute() or file.is_relative_to(_OURS):
        return False
    if any(file.is_relative_to(folder) for folder in getattr(sys.modules.get("torch"), "__path__", ())):
        return False
    return _is_installed(file) or not file.is_relative_to(_STANDARD)


def _is_installed(file: Path) -> bool:
    return any(folder in file.parts for folder in _INSTALLED)
