"""`mmq metrics`: the service's figures, as Prometheus reads them."""

import time

import click

from scheduler.cli import context


@click.command(name="metrics")
def command() -> None:
    """Print jobs, attempts, devices and cycles in the text format of Prometheus."""
    from scheduler.controller.metrics import exposition

    with context.read_store(context.settings()) as database:
        click.echo(exposition(database, now=time.time()), nl=False)
