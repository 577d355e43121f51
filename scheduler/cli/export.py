"""`mmq export`: a job's result as MiniMind's programs or Hugging Face's transformers load it."""

import os
import subprocess
from pathlib import Path

import click

from scheduler.cli import context
from scheduler.errors import MmqError, UsageError

FORMATS = ("minimind", "huggingface")
USAGE = 2  # the trainer's exit code for what was asked wrongly


@click.command(name="export", short_help="Write a job's result as other programs load it.")
@click.argument("job", metavar="JOB")
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="Whose files.")
@click.option(
    "--output", metavar="DIR", type=click.Path(path_type=Path), help="A new directory; by default NAME-FORMAT."
)
def command(job: str, form: str, output: Path | None) -> None:
    """Write the weights of JOB, with tokenizer and chat template, for MiniMind's programs or for transformers."""
    from scheduler.store.jobs import get, resolve

    settings = context.settings()
    with context.store(settings) as database:
        found = resolve(database, [job])
        if len(found) != 1:
            raise MmqError(f"{job} names {len(found)} jobs; export takes one", hint=f"mmq export {found[0]}")
        named = get(database, found[0])
    run_dir = settings.run_dir(named.id)
    if not (run_dir / "final").is_dir():
        raise MmqError(f"job {named.id} has no result: it is {named.state}", hint=f"mmq status {named.id}")
    output = output or Path(f"{named.name}-{form}")
    _convert(run_dir, form, output)
    click.echo(output)


def _convert(run_dir: Path, form: str, output: Path) -> None:
    """Have the trainer's own program do it: it knows the model, and torch."""
    from scheduler.processes.interpreter import python_command, with_source

    done = subprocess.run(
        python_command("trainer.convert", str(run_dir), form, str(output)),
        env=with_source(os.environ) | {"CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        message, _, hint = done.stderr.strip().partition("\nhint: ")
        error = UsageError if done.returncode == USAGE else MmqError
        raise error(message or f"the trainer ended with exit code {done.returncode}", hint=hint or None)
