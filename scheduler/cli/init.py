"""`mmq init`: a commented job file to start from."""

from importlib import resources
from pathlib import Path

import click

from scheduler.errors import MmqError, UsageError


@click.command(name="init")
@click.argument("kind", type=click.Choice(["pretrain", "sft"]))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def command(kind: str, file: Path | None, force: bool) -> None:
    """Write a commented job file to FILE, by default pretrain.yaml or sft.yaml."""
    target = file or Path(f"{kind}.yaml")
    text = (resources.files("scheduler.cli") / "templates" / f"{kind}.yaml").read_text(encoding="utf-8")
    try:
        with target.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{target} exists already", hint=f"mmq init {kind} {target} --force") from None
    except OSError as error:
        raise MmqError(f"{target} cannot be written: {error.strerror}") from None
    click.echo(target)
