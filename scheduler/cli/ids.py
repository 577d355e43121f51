"""Ids as commands take them: `3-5,9`."""

from collections.abc import Sequence


def in_short(ids: Sequence[int]) -> str:
    """Write ids, which rise, as ranges and single ones."""
    runs: list[list[int]] = []
    for one in ids:
        if runs and one == runs[-1][-1] + 1:
            runs[-1][1:] = [one]
        else:
            runs.append([one])
    return ",".join("-".join(map(str, run)) for run in runs)
