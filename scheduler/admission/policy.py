"""What a person may set about admission. One set of values serves every workload."""

from dataclasses import dataclass

PREEMPTIONS_A_JOB = 0.1  # at most, of all jobs that have started


@dataclass(frozen=True, kw_only=True)
class Policy:
    elastic: bool = True  # running jobs may be asked for another micro-batch
    patience_seconds: float = 8 * 3600.0  # what a job waits, at least, before a device is kept for it
    patience_backlogs: float = 1.6  # and so often what a device would need for its share of the queue
    most_patience_seconds: float = 2 * 86400.0  # but no more than this
    utilisation_power: float = 0.3  # of a job's utilisation: what its time is multiplied by in the order
    ageing_seconds: float = 43200.0  # having waited so long, a job counts as half as long as it is
    preemption_gain_seconds: float = 90.0  # summed over all jobs concerned, what stopping one must gain
    preemption_ratio: float = 2.0  # how much longer than the other's its own remaining time must be
    planned: int = 24  # jobs that could start: up to so many, each that waits counts in the forecasts for the next
    considered: int = 12  # jobs for which the future is worked out in a cycle: of those that have room, and of the rest
