"""How long a job still takes, and how much of a device it keeps busy: the model of time that decisions rest on. Pure.

A micro-step of b rows costs b rows' worth of computing and a fixed part besides, `overhead` rows' worth (kernel
launches, the Python around them), during half of which the device computes too. With k the overhead:

    seconds(b) ~ 1 + k/b        busy seconds(b) ~ 1 + k/2b        utilisation = busy seconds / seconds, at most 1

Of n jobs on one device each goes at 1 / (max(1, sum of utilisations) x (1 + 0.02 (n - 1))) of its speed alone: they
share what it computes, and switching between them costs a little. Memory means cost a factor of both.
"""

from dataclasses import dataclass

from scheduler.footprint.curve import Candidate, Modes

START_SECONDS = 15.0  # from admission to the first step
RESUME_SECONDS = 10.0  # more, of a job that was stopped: work since its checkpoint, and loading that
NEIGHBOUR_COST = 0.02  # the simulated devices take 0.07; forecasts with less gave the lower mean completion

CHECKPOINTING_COST = {"off": 1.0, "selective": 1 / 0.9, "full": 1 / 0.75}  # what of the forward pass runs twice
OFFLOAD_COST = 1 / 0.7  # every gradient and weight goes over PCIe once a step
SHARDING_COST = {"none": 1.0, "zero2": 1 / 0.9, "zero3": 1 / 0.8}  # gradients, and weights, travel each micro-step


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """What is left of a job, alone on a device: known from its trainer once it runs, estimated before."""

    seconds: float  # still to go, at `micro_batch` and without memory means
    utilisation: float  # share of that in which the device computes, 0 to 1
    micro_batch: int = 1
    overhead: float = 0.0  # rows' worth of time that a micro-step costs beside its rows

    def seconds_at(self, candidate: Candidate) -> float:
        """Return the seconds still to go with a device to itself."""
        return self.seconds * self.slower(candidate)

    def fastest_seconds(self, rows: int) -> float:
        """Return the same with all rows of a step at once that fall to a process: the least there is."""
        return self.seconds * ((1 + self.overhead / rows) / (1 + self.overhead / self.micro_batch))

    def slower(self, candidate: Candidate) -> float:
        """Return what a candidate multiplies the time by, whatever the job's length."""
        return cost(candidate.modes) * self._relative(candidate.micro_batch, 1.0)

    def busier(self, candidate: Candidate) -> float:
        """Return what it multiplies the utilisation by, which then counts as 1 at most."""
        return self._relative(candidate.micro_batch, 0.5) / self._relative(candidate.micro_batch, 1.0)

    def _relative(self, micro_batch: int, share: float) -> float:
        fixed = share * self.overhead
        return (1 + fixed / micro_batch) / (1 + fixed / self.micro_batch)


def cost(modes: Modes) -> float:
    """Return what memory means multiply the time by."""
    factor = CHECKPOINTING_COST[modes.activation_checkpointing] * SHARDING_COST[modes.sharding]
    return factor * OFFLOAD_COST if modes.optimizer_offload else factor


def slowdown(busy: float, jobs: int) -> float:
    """Return by what each of `jobs` on one device takes longer than alone; `busy` is the sum of their utilisations."""
    return max(1.0, busy) * (1 + NEIGHBOUR_COST * (jobs - 1))
