"""Places at which a test may break a process: kill it, fail it, or hold it up. Standard library only.

`MMQ_FAILPOINTS` names a directory. A file in it that has the name of a place arms that place, once: whoever comes by
first removes the file and does what is in it. Without the variable a place costs one comparison.
"""

import os
import signal
import time
from pathlib import Path

# Every place there is. The fault tests visit each.
PLACES = {
    "submit.inserted": "the job's row is written, its transaction still open",
    "submit.committed": "the job is stored, and nobody told",
    "submit.printed": "the person has the id, the controller was not rung",
    "admission.decided": "a cycle's decisions are made, none carried out",
    "admission.reserved": "memory and attempt are written, the transaction still open",
    "admission.committed": "the attempt is admitted, no worker told",
    "admission.published": "the message is with the broker, the rest of the cycle to be done",
    "claim.received": "a worker has the message, and has not claimed",
    "claim.updated": "the claim is written, its transaction still open",
    "claim.committed": "the attempt is claimed, no shim started",
    "claim.spawned": "the shim stands on its own, the message is not done with",
    "start.locked": "the shim holds its lock, its caller still waits for it",
    "start.detached": "the shim is on its own, and the store does not know it",
    "start.named": "the store knows the shim, and the trainer is not started",
    "start.owned": "the run's lock is taken, nothing prepared",
    "start.prepared": "the attempt's files are written, the trainer is not started",
    "start.spawned": "the trainer lives, and the store does not know it",
    "start.updated": "the trainer is written down, the transaction still open",
    "adoption.locked": "the adopting shim holds the lock, its caller still waits for it",
    "adoption.found": "it has found the living trainer, and the store does not know it",
    "adoption.orphaned": "it has found no trainer, and has written no end",
    "adoption.read": "it has read an earlier shim's record of the end",
    "finish.seen": "the trainer has ended, nothing is written",
    "finish.recorded": "the end is in exit.json, and not in the store",
    "finish.updated": "the end is in the store, the transaction still open",
    "finish.committed": "the end is stored, the controller was not rung",
}
_ARMED_IN = os.environ.get("MMQ_FAILPOINTS")


class Failed(Exception):
    """What an armed place raises: an error that nobody can have expected."""


def failpoint(place: str) -> None:
    """Do what this place is armed with: "kill", "error", or "delay SECONDS"; nothing otherwise."""
    if _ARMED_IN is not None:
        _fire(Path(_ARMED_IN) / place)


def _fire(armed: Path) -> None:
    taken = armed.with_name(f".{armed.name}.{os.getpid()}")
    try:
        armed.rename(taken)  # of several who come by, one
    except FileNotFoundError:
        return
    told = taken.read_text().split()
    taken.unlink()
    match told:
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["error"]:
            raise Failed(f"failpoint {armed.name}")
        case ["delay", seconds]:
            time.sleep(float(seconds))
