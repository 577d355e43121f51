"""The policies that can be simulated, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scheduler.admission.policy import Policy as Admission
from scheduler.simulation.baselines import FirstFit, WholeDevices, in_turn, shortest_first
from scheduler.simulation.moves import Policy
from scheduler.simulation.service import Service


@dataclass(frozen=True)
class Entry:
    sentence: str
    make: Callable[[], Policy]


POLICIES: Mapping[str, Entry] = {
    "fcfs": Entry("one job a device, first come first served", lambda: WholeDevices(in_turn)),
    "shortest": Entry("one job a device, shortest estimate first", lambda: WholeDevices(shortest_first)),
    "declared": Entry("first fit by the memory that users declare", FirstFit),
    "rigid": Entry("mmq, running jobs keep their micro-batch", lambda: Service(Admission(elastic=False))),
    "mmq": Entry("mmq as it is", Service),
}
