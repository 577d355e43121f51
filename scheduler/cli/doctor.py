"""`mmq doctor`: every check, each with what it found and the command that fixes it."""

import json

import click

from scheduler.cli import context
from scheduler.cli.terminal import paint, plain
from scheduler.errors import ExitCode

_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


@click.command(name="doctor")
@click.option("--fix", is_flag=True, help="First fix what is safe to fix, and say what was done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(fix: bool, as_json: bool) -> int:
    """Check home, database, service, broker, locks, devices and disk; exit code 1 if something is wrong."""
    from scheduler.cli.fixes import apply_fixes
    from scheduler.cli.health import findings

    fixed = list(apply_fixes(context.settings())) if fix else []
    checked = list(findings(context.settings()))
    wrong = sum(finding.level == "wrong" for finding in checked)
    if as_json:
        document = {"healthy": not wrong, "findings": [finding._asdict() for finding in checked]}
        click.echo(json.dumps(document | ({"fixed": fixed} if fix else {})))
        return int(ExitCode.FAILED if wrong else ExitCode.OK)
    for sentence in fixed:
        click.echo(f"{paint('fixed', 'green')}  {plain(sentence)}")
    for finding in checked:
        click.echo(
            f"{paint(f'{finding.level:<5}', _COLOURS[finding.level])}  {finding.part:<10} {plain(finding.sentence)}"
        )
        if finding.hint:
            click.echo(f"{'':<18}hint: {plain(finding.hint)}")
    summary = {0: "nothing is wrong", 1: "one thing is wrong"}.get(wrong, f"{wrong} things are wrong")
    click.echo(f"\n{summary}")
    return int(ExitCode.FAILED if wrong else ExitCode.OK)
