"""The list of commands. A command's module is imported when it is run, and not to print this list."""

import importlib
from collections.abc import Sequence

import click

COMMANDS = {
    "up": "Start the service: broker, controller and worker.",
    "down": "Stop the service; running jobs go on.",
    "submit": "Check a job file, store the job, print its id.",
    "status": "Show jobs and devices, or everything about one job.",
    "why": "Explain why jobs wait or start, as the scheduler last decided.",
    "logs": "Show what a job's training printed.",
    "events": "Show what happened and why, one line for each event.",
    "wait": "Wait until jobs have ended.",
    "cancel": "Cancel jobs, waiting or running.",
    "hold": "Keep waiting jobs from starting.",
    "release": "Let held jobs start again.",
    "retry": "Queue failed or cancelled jobs again.",
    "generate": "Have a job's model continue a prompt.",
    "evaluate": "Compute the loss and perplexity of a job's model on a data file.",
    "export": "Write a job's model in a format that other programs load.",
    "estimate": "Show how much memory a job needs, and the plan it would get.",
    "simulate": "Try other policies and devices on a simulated queue.",
    "gpus": "Show the devices: total, free, reserved, foreign processes.",
    "metrics": "Print metrics for Prometheus.",
    "init": "Write a commented job file to start from.",
    "doctor": "Find what is wrong, and name the command that fixes it.",
    "clean": "Free disk space: remove what ended jobs left behind.",
    "db": "Upgrade, back up or restore the database.",
}


class LazyGroup(click.Group):
    """Finds a command by its name in `scheduler.cli`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"scheduler.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command: {args[0]!r}{_meant(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _meant(word: str, words: Sequence[str] = tuple(COMMANDS)) -> str:
    import difflib

    close = difflib.get_close_matches(word, words, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from scheduler import VERSION

        click.echo(f"mmq {VERSION}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="JOB is an id, a unique name, a list or range (3-9,12), @ for the last, @~1 for the one before,"
    " @12 for all of job 12's array.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def mmq() -> None:
    """Queue training jobs on shared GPUs. mmq estimates their memory, chooses micro-batches and packs them."""
