"""`mmq db upgrade|backup|restore`."""

from pathlib import Path

import click

from scheduler.cli import context


@click.group(name="db")
def command() -> None:
    """Look after the database."""


@command.command(name="upgrade", short_help="Upgrade it to this version's schema.")
def upgrade() -> None:
    """Upgrade the database to this version's schema, after making a copy of it."""
    from scheduler.store.upgrade import upgrade as bring_up

    copy = bring_up(context.settings())
    click.echo("the database is up to date" + (f"; the old one is kept at {copy}" if copy else ""))


@command.command(name="backup", short_help="Copy it, even while it is in use.")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), required=False)
def backup(target: Path | None) -> None:
    """Copy the database to TARGET, by default into the home's `backups` directory; it may be in use."""
    from scheduler.store.upgrade import backup as copy

    click.echo(copy(context.settings(), None if target is None else target.absolute()))


@command.command(name="restore", short_help="Replace it by a copy.")
@click.argument("copy", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def restore(copy: Path) -> None:
    """Replace the database by COPY; the old one is kept. The service must be down."""
    from scheduler.cli.recovery import FIX, gaps
    from scheduler.cli.terminal import say
    from scheduler.store.restore import restore as put_in_place

    settings = context.settings()
    kept = put_in_place(settings, copy.absolute())
    click.echo(f"the database is restored from {copy}" + (f"; the old one is kept at {kept}" if kept else ""))
    with context.store(settings) as database:
        if any(gap.restorable for gap in gaps(database, settings)):
            say(
                "note",
                "jobs went on after that copy was made, and their run directories know more than it does",
                hint=FIX,
            )
