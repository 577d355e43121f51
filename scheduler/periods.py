"""How long mmq's parts wait before they look again. `MMQ_HASTE=5` makes each such period a fifth: for fault tests,
which would otherwise mostly wait. Standard library only.
"""

import os

_HASTE = float(os.environ.get("MMQ_HASTE") or 1)


def period(seconds: float) -> float:
    """The period to keep where this is the usual one."""
    return seconds / _HASTE
