"""The command line of a trainer: one process, or one a device, which torch's launcher starts and ends."""

import os
import socket

from scheduler.processes.interpreter import python_command
from worker.rundir import RunDir

# What torchrun gives its processes to save before it kills them: the shim's own patience is shorter, and decides.
# All are on this host, so they meet there, whatever its name resolves to.
LAUNCHER_ENVIRONMENT = {
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600",
    "PYTHONSAFEPATH": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}


def trainer_command(run: RunDir, processes: int) -> list[str]:
    arguments = (str(run.config), str(run.root))
    if processes == 1:
        return python_command("trainer", *arguments)
    # Not `--standalone`: with it the launcher unpickles what it finds in a store that anybody may write into.
    where = ("--master-port", str(_free_port()), "--nproc-per-node", str(processes))
    # Else it makes a directory for its own records beside everybody's, and leaves it there.
    return python_command("torch.distributed.run", *where, "--log-dir", os.devnull, "-m", "trainer", *arguments)


def _free_port() -> int:
    """Should another take it meanwhile, the attempt ends as a crash and is tried again."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
