"""What ends a run before its work is done, and the exit code each end has. Imports nothing of ours."""

from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1  # the machine failed us: disk full, lost file, ...
    BAD_CONFIGURATION = 2
    BAD_DATA = 3
    STOPPED = 75  # SIGTERM: the step was finished and saved
    OUT_OF_MEMORY = 80  # of the device, and nothing left to try in this process
    NON_FINITE_LOSS = 81
    TIME_LIMIT = 82  # the run's own: everything is saved


class TrainerError(Exception):
    """Something to tell the person; the `failed` event carries `reason` and the message."""

    exit_code = ExitCode.FAILED
    reason = "failed"


class BadConfiguration(TrainerError):
    exit_code = ExitCode.BAD_CONFIGURATION
    reason = "bad_configuration"


class BadData(TrainerError):
    """A file of rows is wrong: file, line, field, reason, remedy."""

    exit_code = ExitCode.BAD_DATA
    reason = "bad_data"

    def __init__(self, file: str, line: int | None, field: str | None, reason: str, remedy: str) -> None:
        place = file if line is None else f"{file}:{line}"
        subject = f"{place}: {field}" if field else place
        super().__init__(f"{subject}: {reason}\nhint: {remedy}")


class OutOfDeviceMemory(TrainerError):
    exit_code = ExitCode.OUT_OF_MEMORY
    reason = "out_of_memory"


class OutOfHostMemory(TrainerError):
    """The host refused memory to this process, and left it alive."""

    reason = "host_out_of_memory"

    @staticmethod
    def told(error: BaseException) -> str:
        lines = str(error).rpartition("err == 0. ")[2].splitlines() or ["Python could get no more"]
        return f"out of host memory: {lines[0]}\nhint: free -h; fewer jobs at once, memory.optimizer_offload: off"


class NonFiniteLoss(TrainerError):
    exit_code = ExitCode.NON_FINITE_LOSS
    reason = "non_finite_loss"


class DiskFull(TrainerError):
    reason = "disk_full"


class LostProcess(TrainerError):
    """One of the processes that train a run together is no longer there."""

    reason = "lost_process"


class Stopped(TrainerError):
    """SIGTERM arrived; everything is saved."""

    exit_code = ExitCode.STOPPED
    reason = "stopped"


class TimeLimitReached(TrainerError):
    """The run has used up its time; everything is saved."""

    exit_code = ExitCode.TIME_LIMIT
    reason = "time_limit"
