"""`mmq up`."""

import click

from scheduler.cli import context


@click.command(name="up", short_help="Start the service: broker, controller and worker.")
@click.option("--detach", is_flag=True, help="Start it in the background, and return when it is up.")
@click.option(
    "--devices", metavar="SPEC", help="auto, cpu[:BYTES] or virtual:NxSIZE; by default MMQ_DEVICES, or as before."
)
def command(detach: bool, devices: str | None) -> int:
    """Start the service: the broker (embedded unless MMQ_BROKER_URL is set), the controller and the worker.

    Safe to run twice: a second one says who holds the home. Training that went on while it was down is adopted.
    """
    from scheduler.service.up import up

    settings = context.settings()
    return up(settings, devices, detach)
