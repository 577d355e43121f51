"""Simulations as people read them: a table of times, one of conduct, the course of the queue, and what changed."""

from collections.abc import Sequence
from itertools import groupby

from scheduler.cli.simulateplot import draw
from scheduler.cli.terminal import Column, Line, table, width, wrap
from scheduler.simulation.comparison import Result
from scheduler.units import format_duration

_TIMES = (
    Column("devices", "DEVICES"),
    Column("policy", "POLICY"),
    Column("mean", "COMPLETION", right=True),
    Column("p95", "95 %", right=True),
    Column("wait", "WAIT", right=True),
    Column("wait95", "95 %", right=True, drop=1),
    Column("longest", "LONGEST", right=True, drop=2),
    Column("makespan", "MAKESPAN", right=True),
)
_CONDUCT = (
    Column("devices", "DEVICES"),
    Column("policy", "POLICY"),
    Column("utilisation", "USED", right=True),
    Column("preemptions", "PREEMPTED", right=True),
    Column("over", "OVER-COMMITTED", right=True),
    Column("memory", "OUT OF MEMORY", right=True),
    Column("refused", "REFUSED", right=True),
    Column("jain", "JAIN", right=True),
    Column("worst", "WORST USER", right=True, drop=1),
)


def text(results: Sequence[Result], workload: str, jobs: int) -> str:
    """Lay what `simulate` found out for a person."""
    several = len({result.outcome.hardware.name for result in results}) > 1
    sections = ["\n".join(wrap(f"{jobs} jobs of {workload}. Completion and wait are means, from submission on.", 0))]
    sections.append(table(_TIMES, [line for group in _by_devices(results) for line in _times(group, several)]))
    sections.append(table(_CONDUCT, [_conduct(result, several) for result in results]))
    sections.append(f"Jobs that wait, over time:\n{draw(results, width=width())}")
    if several:
        sections.append("\n".join(_changes(results)))
    return "\n\n".join(sections)


def _by_devices(results: Sequence[Result]) -> list[list[Result]]:
    return [list(group) for _, group in groupby(results, key=lambda result: result.outcome.hardware.name)]


def _times(group: Sequence[Result], several: bool) -> list[Line]:
    name = group[0].outcome.hardware.name if several else ""
    least = group[0].measures
    bound = {
        "devices": name,
        "policy": "(bound)",
        "mean": format_duration(least.mean_completion_bound_seconds),
        "makespan": format_duration(least.makespan_bound_seconds),
    }
    return [*(_time(result, name) for result in group), Line(bound, dict.fromkeys(bound, "dim"))]


def _time(result: Result, name: str) -> Line:
    measures = result.measures
    return Line(
        {
            "devices": name,
            "policy": result.policy,
            "mean": format_duration(measures.mean_completion_seconds),
            "p95": format_duration(measures.p95_completion_seconds),
            "wait": format_duration(measures.mean_wait_seconds),
            "wait95": format_duration(measures.p95_wait_seconds),
            "longest": format_duration(measures.longest_wait_seconds),
            "makespan": format_duration(measures.makespan_seconds),
        }
    )


def _conduct(result: Result, several: bool) -> Line:
    measures = result.measures
    values = {
        "devices": result.outcome.hardware.name if several else "",
        "policy": result.policy,
        "utilisation": f"{measures.utilisation:.0%}",
        "preemptions": str(measures.preemptions),
        "over": str(measures.over_commits),
        "memory": str(measures.out_of_memory),
        "refused": str(measures.refused) if measures.refused else "",
        "jain": f"{measures.jain:.3f}",
        "worst": f"{measures.worst_user:.2f}",
    }
    return Line(values, {"over": "red" if measures.over_commits else "", "memory": "yellow"} if _bad(result) else {})


def _bad(result: Result) -> bool:
    return bool(result.measures.over_commits or result.measures.out_of_memory)


def _changes(results: Sequence[Result]) -> list[str]:
    """Say for each policy what the other devices change against the first."""
    first, *others = _by_devices(results)
    before = {result.policy: result for result in first}
    lines: list[str] = []
    for result in (each for group in others for each in group):
        old, new = before[result.policy].measures, result.measures
        sentence = (
            f"{result.outcome.hardware.name} in place of {first[0].outcome.hardware.name}, {result.policy}: "
            f"completion {_change(old.mean_completion_seconds, new.mean_completion_seconds)}, "
            f"wait {_change(old.mean_wait_seconds, new.mean_wait_seconds)}, "
            f"makespan {_change(old.makespan_seconds, new.makespan_seconds)}."
        )
        lines += wrap(sentence, 0)
    return lines


def _change(old: float, new: float) -> str:
    percent = f" ({(new - old) / old:+.0%})" if old else ""
    return f"{format_duration(old)} to {format_duration(new)}{percent}"
