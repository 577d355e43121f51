"""Ids as commands take them: `3-5,9`."""

from collections.abc import Sequence


def in_short(ids: Sequence[int]) -> str:
    """Write ascending ids as ranges and single ids."""
    ranges: list[list[int]] = []
    for job_id in ids:
        if ranges and job_id == ranges[-1][-1] + 1:
            ranges[-1][1:] = [job_id]
        else:
            ranges.append([job_id])
    return ",".join("-".join(map(str, each)) for each in ranges)
