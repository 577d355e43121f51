"""What the trainer's small programs have in common: errors in words, a quiet end when nobody reads any more."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from trainer.errors import ExitCode, TrainerError

INTERRUPTED = 130


def run_program(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run it; the exit code is the result."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # whoever started us may have held it up until now
        main(arguments)
        sys.stdout.flush()
    except TrainerError as error:
        message, _, hint = str(error).partition("\nhint: ")
        print(f"error: {message}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.DONE
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return ExitCode.DONE


def show_progress(line: str) -> None:
    """Say how far it is, on a terminal only, each time over the last."""
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
