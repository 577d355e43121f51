"""`mmq up`."""

import click

from scheduler.cli import context


@click.command(name="up")
@click.option("--detach", is_flag=True, help="Start it in the background, and return when it is up.")
@click.option(
    "--devices",
    metavar="SPEC",
    help="auto, cuda, cpu[:BYTES] or virtual:NxSIZE; by default MMQ_DEVICES, or as last time.",
)
def command(detach: bool, devices: str | None) -> int:
    """Start the service: the broker (embedded unless MMQ_BROKER_URL is set), the controller and the worker.

    Safe to run twice: the second says that it is running already. Training that went on meanwhile is adopted.
    """
    from scheduler.service.up import up

    settings = context.settings()
    return up(settings, devices, detach)
