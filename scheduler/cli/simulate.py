"""`mmq simulate`: the admission cycle on simulated devices and time, beside other policies and the bounds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from scheduler.simulation.hardware import Hardware

_POLICIES = ("fcfs", "shortest", "declared", "rigid", "mmq")


def _hardware(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> "list[Hardware]":
    from scheduler.simulation.hardware import parse

    try:
        return [parse(name) for name in names]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(name="simulate")
@click.option("--workload", metavar="FILE.jsonl|KIND:SEED", default="standard:1", help="By default standard:1.")
@click.option(
    "--devices",
    "settings",
    metavar="NxSIZE",
    multiple=True,
    default=("4x24GiB",),
    callback=_hardware,
    help="Such as 4x24GiB (the default) or 4x24GiB,2x48GiB; repeat to compare.",
)
@click.option(
    "--policy",
    "policies",
    metavar="NAME",
    type=click.Choice(_POLICIES),
    multiple=True,
    help="By default all; repeat to choose several.",
)
@click.option(
    "--footprint-error",
    metavar="PERCENT",
    type=click.FloatRange(0, 50),
    default=0.0,
    help="The largest error of predicted memory; by default 0.",
)
@click.option(
    "--seed", metavar="N", type=int, default=0, help="Seed for the errors in what the scheduler knows; by default 0."
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw the queue, device use and completions."
)
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Only write the workload to a file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    workload: str,
    settings: "list[Hardware]",
    policies: tuple[str, ...],
    footprint_error: float,
    seed: int,
    plot: Path | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Run a queue of jobs on simulated devices, with the code that decides in the service and with other policies.

    KIND is standard, all-at-once or utilisation-U for a mean utilisation U, such as utilisation-0.7; SEED is a number.
    """
    from scheduler.simulation.comparison import compare
    from scheduler.simulation.knowledge import Oracle
    from scheduler.simulation.source import open_workload
    from scheduler.simulation.workload import write

    jobs = open_workload(workload)
    if save is not None:
        write(jobs, save)
        click.echo(f"{len(jobs)} jobs are in {save}")
        return
    oracle = Oracle(seed=seed, footprint_error=footprint_error / 100)
    results = list(compare(jobs, settings, policies or _POLICIES, oracle=oracle))
    if plot is not None:
        from scheduler.cli.simulateplot import svg

        plot.write_text(svg(results, title=f"{workload}: {len(jobs)} jobs"))
    if as_json:
        document = {"workload": workload, "jobs": len(jobs), "simulations": [result.as_json() for result in results]}
        click.echo(json.dumps(document))
        return
    from scheduler.cli.simulateview import text

    click.echo(text(results, workload, len(jobs)))
