"""`mmq estimate`: the footprint of a job and the plan it would get. Needs no GPU and no running service."""

import json
from pathlib import Path

import click

from scheduler.cli import context


@click.command(name="estimate", short_help="Say how much memory a job needs, and the plan it would get.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--gpu", metavar="NAME|SIZE", help="Like 'RTX 4090' or 24GiB; by default the largest here.")
@click.option("-o", "overrides", metavar="KEY.SUB=VALUE", multiple=True, help="Override a field of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, gpu: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what the job FILE needs, in its parts, which micro-batches fit, and the plan that would be chosen."""
    from scheduler.cli.estimateview import text
    from scheduler.cli.intake import inherited
    from scheduler.controller.estimate import estimate
    from scheduler.jobs.jobfile import read
    from scheduler.store.opening import open_if_any

    settings, asked = context.settings(), read(file, overrides, with_files=False)
    with open_if_any(settings) as database:
        spec = inherited(asked, database)
    told = estimate(spec, gpu, settings).as_json()
    click.echo(json.dumps(told) if as_json else text(told))
