"""What a job fixes and what it leaves open about its memory: the candidates worth tracing and considering.

Pure values. Reads the job's resolved spec, whose memory choices are `auto`, a means by its name, or a number.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from math import isqrt

from scheduler.footprint.curve import Modes
from scheduler.jobs.means import Checkpointing, Sharding, checkpointing_of, shardings
from scheduler.jobs.spec import JobSpec

_OFFLOAD: dict[str, tuple[bool, ...]] = {"auto": (False, True), "on": (True,), "off": (False,)}
_CHECKPOINTING: tuple[Checkpointing, ...] = ("off", "selective", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class RanOut:
    """With what an attempt ran out of memory."""

    micro_batch: int
    modes: Modes
    of_states: bool = False  # by weights, gradients and optimizer alone, whatever the micro-batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """One job's room for choice."""

    effective_batch: int
    max_seq_len: int
    shares: int = 1  # in which the rows of each optimizer step are dealt out to processes, one a device
    micro_batch: int | None = None  # a number from the job file: tried first as it is
    modes: tuple[Modes, ...] = (Modes(),)  # from the fastest means to the most frugal
    max_memory_bytes: int | None = None  # never take more of a device
    exclusive: bool = False
    micro_batch_limit: int | None = None  # lowered by an out-of-memory that ended an attempt
    ran_out: tuple[RanOut, ...] = ()  # the attempts that did, as far as only other means will do
    spares_host: bool = False  # the host ran out of memory with the optimizer there: not again before `mmq retry`

    def __hash__(self) -> int:
        """Hash what tells most wishes apart: it is asked for many times a cycle, as a key of what was worked out."""
        return hash((self.effective_batch, self.max_seq_len, self.micro_batch, self.micro_batch_limit, self.shares))

    @property
    def rows(self) -> int:
        """The most rows of an optimizer step that fall to one process."""
        return -(-self.effective_batch // self.shares)

    @property
    def insists(self) -> bool:
        """Whether the number in the job file still stands: it does until an attempt ended out of memory."""
        return self.micro_batch is not None and self.micro_batch_limit is None and not self.ran_out

    @property
    def stages(self) -> tuple[tuple[Modes, ...], ...]:
        """What is traced first, and what only for a job that is not helped by it: to trace sharding takes longest."""
        first, rest = self.modes[:1], self.modes[1:]
        whole = tuple(one for one in rest if one.sharding == first[0].sharding)
        divided = tuple(one for one in rest if one.sharding != first[0].sharding)
        return tuple(stage for stage in (first, whole, divided) if stage)


def wish_of(
    spec: JobSpec,
    *,
    micro_batch_limit: int | None = None,
    ran_out: tuple[RanOut, ...] = (),
    spares_host: bool = False,
) -> Wish:
    """Read a job's wish from its resolved spec and from what its earlier attempts taught."""
    number = spec.memory.micro_batch
    return Wish(
        effective_batch=spec.effective_batch,
        max_seq_len=spec.data.max_seq_len,
        shares=spec.resources.gpus // spec.memory.tensor_parallel,
        micro_batch=None if isinstance(number, str) else number,
        modes=modes_of(spec),
        max_memory_bytes=spec.resources.max_memory_bytes,
        exclusive=spec.resources.exclusive,
        micro_batch_limit=micro_batch_limit,
        ran_out=ran_out,
        spares_host=spares_host and spec.memory.optimizer_offload == "auto",
    )


def modes_of(spec: JobSpec) -> tuple[Modes, ...]:
    """List the memory means the job allows, the fastest first. Chunked loss costs nothing: auto is on."""
    memory = spec.memory
    asked = memory.activation_checkpointing
    allowed = _CHECKPOINTING if asked == "auto" else (checkpointing_of(asked),)
    divided = shardings(
        memory.sharding,
        processes=spec.resources.gpus,
        tensor_parallel=memory.tensor_parallel,
        optimizer=spec.train.optimizer,
        compiled=spec.train.compile,
    )
    return tuple(
        Modes(
            activation_checkpointing=checkpointing,
            optimizer_offload=offload,
            chunked_loss=memory.chunked_loss != "off",
            sharding=sharding,
            tensor_parallel=memory.tensor_parallel,
        )
        for sharding, offload, checkpointing in product(divided, _OFFLOAD[memory.optimizer_offload], allowed)
        if len(divided) == 1 or _is_worth_tracing(sharding, offload, checkpointing, memory.optimizer_offload)
    )


def _is_worth_tracing(sharding: Sharding, offload: bool, checkpointing: Checkpointing, asked: str) -> bool:
    """Leave out what is slower than ZeRO-3 without offload and hardly smaller; the smallest of all stays in."""
    return sharding == "none" or asked != "auto" or not offload or (sharding, checkpointing) == ("zero3", "full")


def micro_batches(rows: int, number: int | None = None) -> list[int]:
    """List the micro-batches worth knowing: divisors of a step's rows in a process, halvings of it and of `number`.

    A divisor wastes no micro-step; of those closer together than a quarter the smaller one will do. The halvings
    (rounded up) are what a trainer that runs out of memory comes to.
    """
    found = set(_spread(_divisors(rows))) | set(_halvings(rows))
    if number is not None:
        found |= set(_halvings(min(number, rows)))
    return sorted(found)


def _divisors(number: int) -> list[int]:
    low = [size for size in range(1, isqrt(number) + 1) if number % size == 0]
    return sorted({*low, *(number // size for size in low)})


def _spread(sizes: Iterable[int]) -> Iterable[int]:
    last = 0
    for size in sizes:
        if 4 * size >= 5 * last:
            last = size
            yield size


def _halvings(start: int) -> Iterable[int]:
    size = start
    while size > 1:
        yield size
        size = (size + 1) // 2
    yield 1
