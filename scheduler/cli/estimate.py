"""`mmq estimate`: the footprint of a job and the plan it would get; or of any torch loop; or a large model's states."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from scheduler.cli import context


@click.command(name="estimate")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--gpu", "gpus", metavar="NAME|SIZE", multiple=True, help="Such as 'RTX 4090' or 24GiB; by default the GPUs here."
)
@click.option("-o", "overrides", metavar="KEY.SUB=VALUE", multiple=True, help="Override a field of the file.")
@click.option("--entry", metavar="FILE.py:FUNCTION", help="Any torch loop: FUNCTION returns a model and a step.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="Call FUNCTION with this argument.")
@click.option("--python", metavar="PATH", help="With --entry: the interpreter that the loop runs with.")
@click.option("--parameters", metavar="N", help="States of a model with N parameters, such as 671B.")
@click.option("--precision", metavar="NAME", help="With --parameters: only this row of the table.")
@click.option(
    "--devices", metavar="N", type=click.IntRange(min=1), default=1, help="With --parameters: split over N devices."
)
@click.option("--explain", is_flag=True, help="Also show what the figures are based on, and draw memory over a step.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw memory over a step, as SVG or HTML."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: Path | None,
    gpus: tuple[str, ...],
    overrides: tuple[str, ...],
    entry: str | None,
    settings: tuple[str, ...],
    python: str | None,
    parameters: str | None,
    precision: str | None,
    devices: int,
    explain: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Show how much memory the job FILE needs and for what, which micro-batches fit, and the plan it would get.

    Instead of FILE, give --entry for a torch loop of your own, or --parameters for the weights, gradients and optimizer
    states of a model too large for one machine.
    """
    given = sum(item is not None for item in (file, entry, parameters))
    if given != 1:
        raise click.UsageError(f"{'only ' if given else ''}one of FILE, --entry and --parameters is needed")
    _only_with("--entry", {"--set": settings, "--python": python}, there=entry is not None)
    _only_with("--parameters", {"--precision": precision}, there=parameters is not None)
    _only_with("FILE", {"-o": overrides, "--explain": explain}, there=file is not None)
    _only_with("FILE or --entry", {"--gpu": gpus, "--plot": plot}, there=parameters is None)
    if plot is not None:
        _check_plot(plot)
    if parameters is not None:
        answer, text = _states(parameters, precision, devices)
    elif entry is not None:
        answer, text = _entry(entry, settings, python, gpus, plot)
    else:
        assert file is not None
        answer, text = _job(file, overrides, gpus, explain=explain, plot=plot)
    click.echo(json.dumps(answer) if as_json else text)


def _only_with(what: str, options: dict[str, object], *, there: bool) -> None:
    """Refuse options that go with an argument which is not there."""
    for name, value in options.items():
        if value and not there:
            raise click.UsageError(f"{name} goes with {what} only")


def _check_plot(path: Path) -> None:
    """See that it can be written, before anything is worked out for it."""
    if path.suffix not in (".svg", ".html", ".htm"):
        raise click.BadParameter(f"{path} is neither .svg nor .html", param_hint="--plot")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}", param_hint="--plot")


def _job(
    file: Path, overrides: tuple[str, ...], gpus: tuple[str, ...], *, explain: bool, plot: Path | None
) -> tuple[dict[str, Any], str]:
    from scheduler.cli.estimateview import explained, text
    from scheduler.cli.submission import inherited
    from scheduler.controller.estimate import course, estimates
    from scheduler.jobs.jobfile import read
    from scheduler.store.opening import open_if_any

    settings, job_file = context.settings(), read(file, overrides, with_files=False)
    with nullcontext() if job_file.spec.init_from is None else open_if_any(settings) as database:
        spec = inherited(job_file, database)
    estimate, *others = estimates(spec, gpus, settings)
    answer = estimate.as_json()
    if others:
        answer["devices"] = [each.brief() for each in (estimate, *others)]
    if not explain and plot is None:
        return answer, text(answer)
    answer["course"] = course(spec, estimate)
    if plot is not None:
        from scheduler.cli.entryview import write_plot

        write_plot(plot, answer, file.name)
    return answer, explained(answer) if explain else text(answer)


def _entry(
    entry: str, settings: tuple[str, ...], python: str | None, gpus: tuple[str, ...], plot: Path | None
) -> tuple[dict[str, Any], str]:
    from scheduler.cli.entryview import text, write_plot
    from scheduler.controller.entry import BRIEF, estimate_entry, parse_entry

    answer, *others = estimate_entry(parse_entry(entry, settings, python), gpus, context.settings())
    if others:
        answer["devices"] = [{name: each[name] for name in BRIEF} for each in (answer, *others)]
    if plot is not None:
        write_plot(plot, answer, entry)
    return answer, text(answer)


def _states(parameters: str, precision: str | None, devices: int) -> tuple[dict[str, Any], str]:
    from scheduler.cli.statesview import states, text
    from scheduler.footprint.states import PRECISIONS, parse_parameters

    known = {each.name: each for each in PRECISIONS}
    if precision is not None and precision not in known:
        raise click.BadParameter(f"{precision!r} is none of {', '.join(known)}", param_hint="--precision")
    try:
        count = parse_parameters(parameters)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write it like 671B or 63.9M", param_hint="--parameters") from None
    answer = states(count, known[precision] if precision else None, devices)
    return answer, text(answer)
