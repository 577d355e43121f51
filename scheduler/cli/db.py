"""`mmq db upgrade|backup`."""

from pathlib import Path

import click

from scheduler.cli import context


@click.group(name="db", short_help="Upgrade or back up the database.")
def command() -> None:
    """Look after the database."""


@command.command(name="upgrade", short_help="Bring it to this version's schema.")
def upgrade() -> None:
    """Bring the database to this version's schema, with a copy of the old one first."""
    from scheduler.store.upgrade import upgrade as bring_up

    copy = bring_up(context.settings())
    click.echo("the database is up to date" + (f"; the old one is kept at {copy}" if copy else ""))


@command.command(name="backup", short_help="Copy it while it is in use.")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), required=False)
def backup(target: Path | None) -> None:
    """Copy the database to TARGET while it is in use; by default into the home's `backups` directory."""
    from scheduler.store.upgrade import backup as copy

    click.echo(copy(context.settings(), None if target is None else target.absolute()))
