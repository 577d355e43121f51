"""The command line of a trainer: one process, or one a device, which torch's launcher starts and ends. Pure."""

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
    launcher = ("--standalone", "--nproc-per-node", str(processes), "-m", "trainer")
    return python_command("torch.distributed.run", *launcher, *arguments)
