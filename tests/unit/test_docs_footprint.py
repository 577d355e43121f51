"""The figures and parts in `docs/footprint.md` are the code's."""

from scheduler.admission.plan import margin_bytes
from scheduler.footprint.context import CONTEXT_BYTES, GENERATION_BYTES, MIB, NCCL_BYTES, context_bytes
from tests.unit.pages import page, spans
from trainer.data.batches import LENGTH_STEP
from trainer.memory.allocator import BLOCK_BYTES
from trainer.memory.kernels import WORKSPACE_BYTES, workspace_bytes
from trainer.model.loss import CHUNK_ELEMENTS
from trainer.trace.player import PARTS

PAGE = page("footprint.md")


def test_the_figures_outside_the_trace() -> None:
    sizes = {what: size for what, size, _ in PAGE.table("How the number is made")}
    assert sizes == {
        **{f"context, `{kind}`": f"{size // MIB} MiB" for kind, size in CONTEXT_BYTES.items()},
        **{
            f"context and kernels, compute capability {major}": f"{context_bytes('cuda', f'{major}.0') // MIB} MiB"
            for major in GENERATION_BYTES
        },
        **{
            f"NCCL, compute capability {capability}, two processes, and more": f"{two // MIB} and {more // MIB} MiB"
            for capability, (two, more) in NCCL_BYTES.items()
        },
        "cuBLAS's workspace, one thread": f"{WORKSPACE_BYTES:,} B",
        "the same on compute capability 9, 10 and 12": f"{workspace_bytes('9.0') // MIB} MiB",
        "logits held at once by the chunked loss, one copy": f"{4 * CHUNK_ELEMENTS // MIB} MiB",
    }
    assert {workspace_bytes(f"{major}.0") for major in (9, 10, 12)} == {workspace_bytes("9.0")}


def test_the_parts() -> None:
    assert {spans(row[0])[0] for row in PAGE.table("The parts")} == {*PARTS, "context", "cached"}


def test_the_margin_and_the_steps() -> None:
    assert "2 %, on the CPU 15 %, at least 64 MiB; on a virtual device none" in PAGE.text
    sizes = [
        margin_bytes(kind, size * MIB)
        for kind, size in (("cuda", 100_000), ("cpu", 1000), ("cuda", 10), ("virtual", 10))
    ]
    assert sizes == [2000 * MIB, 150 * MIB, 64 * MIB, 0]
    assert f"rounded up to {BLOCK_BYTES} bytes" in PAGE.text
    assert f"in steps of {LENGTH_STEP} tokens" in PAGE.text
