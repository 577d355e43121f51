"""Runs one command line, and turns whatever goes wrong into a sentence, a hint and an exit code."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from scheduler.cli.group import mmq
from scheduler.cli.terminal import one_line, say
from scheduler.errors import ExitCode, MmqError, NotPermitted


def run(arguments: Sequence[str] | None) -> int:
    """Run the command that the arguments name; the exit code is its result."""
    _prepare_streams()
    try:
        code = mmq.main(args=arguments, prog_name="mmq", standalone_mode=False)
        sys.stdout.flush()
    except MmqError as error:
        return _print_error(error)
    except click.ClickException as error:
        return _misused(error)
    except (click.Abort, KeyboardInterrupt):
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return _leave_quietly()
    except SystemExit as leaving:  # click's own way out when the reader of a pipe is gone
        return _leave_quietly() if leaving.code == 1 else _code(leaving.code)
    except OSError as error:
        return _print_error(_from_system(error))
    except Exception as error:  # noqa: BLE001  the last line of defence: a person never sees a traceback
        return _unexpected(error)
    return _code(code)


def _prepare_streams() -> None:
    """Stand in for streams that were closed, or a file opened later would get their output."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks a character shows another in its place
            stream.reconfigure(errors="replace")


def _misused(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        command = getattr(getattr(error, "ctx", None), "command_path", "mmq")
        say("error", one_line(error.format_message()).rstrip("."), hint=f"{command} --help")
    return int(ExitCode.USAGE)


def _code(code: object) -> int:
    return code if isinstance(code, int) else int(ExitCode.OK)


def _print_error(error: MmqError) -> int:
    """Print an error, or each of several, with its hint."""
    for each in getattr(error, "errors", (error,)):
        say("error", each.message, hint=each.hint)
    return int(error.exit_code)


def _from_system(error: OSError) -> MmqError:
    """An error that is not mmq's own: a file that can't be read or written, a full disk."""
    kind = NotPermitted if isinstance(error, PermissionError) else MmqError
    where = f"{error.filename}: " if error.filename is not None else ""
    return kind(f"{where}{error.strerror or error}", hint="mmq doctor")


def _leave_quietly() -> int:
    """End silently: the reader of stdout is gone, so what is still buffered goes to /dev/null."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(ExitCode.OK)


def _unexpected(error: Exception) -> int:
    if os.environ.get("MMQ_TRACEBACK"):
        raise error
    from scheduler.cli.crash import write_details

    where = write_details(error)
    say("error", f"mmq itself failed: {type(error).__name__}: {error}", hint=f"the details are in {where}")
    return int(ExitCode.FAILED)
