"""What a process shows on a device beside its allocator: the CUDA context, or a virtual device's like of it.

The one place for these figures. A first guess per kind and GPU generation; a machine's own readings correct it.
"""

MIB = 1024**2
CUDA_CONTEXT_BYTES = 560 * MIB  # measured 270 to 560 MiB by GPU and driver with lazy loading; the high end
KERNELS_BYTES = 18 * MIB  # loaded as they are used, over a whole run: 18 typically, 6 to 50 (RTX 3060, torch 2.6)
VIRTUAL_CONTEXT_BYTES = 64 * MIB  # by definition: small, so that demonstrations fit, and never nothing
CPU_CONTEXT_BYTES = 352 * MIB  # resident set of a bare trainer: interpreter, torch (220 MiB), threads, tokenizer

CONTEXT_BYTES = {"cuda": CUDA_CONTEXT_BYTES, "virtual": VIRTUAL_CONTEXT_BYTES, "cpu": CPU_CONTEXT_BYTES}

# Contexts with lazy loading by the major compute capability; of several published figures the highest.
GENERATION_BYTES = {
    8: 481 * MIB,  # A100, torch 2.1, CUDA 12.1 (stas00/ml-engineering); a RTX 6000 Ada, CUDA 13: 426
    9: 529 * MIB,  # H100, torch 2.6, CUDA 12.4 (modded-nanogpt's logs)
}


# What NCCL holds in each of two processes, and in each of more, by compute capability. It grows with its channels, and
# they with what the links carry: between cards on PCIe, which all others here are, nothing was left for it of what
# nvidia-smi showed for eight L20s (minimind-A11 of benchmarks/measured_peaks.csv; torch 2.6, CUDA 12.4).
NCCL_BYTES = {
    "8.0": (544 * MIB, 688 * MIB),  # A100s over NVLink, 2023 (NVIDIA/nccl issue 964)
    "9.0": (
        992 * MIB,
        992 * MIB,
    ),  # eight H100s, torch 2.10, CUDA 12.8: 1,521 less the context (modded-nanogpt)
}
_LIKE = {"10": "9.0"}  # by the major number: not measured


def context_bytes(kind: str, capability: str | None = None, processes: int = 1) -> int:
    """Guess what one of so many processes holds on a device of this kind and compute capability before its first
    tensor, and by the kernels it loads later."""
    known = GENERATION_BYTES.get(int(capability.partition(".")[0])) if kind == "cuda" and capability else None
    alone = CONTEXT_BYTES[kind] if known is None else known + KERNELS_BYTES
    return alone + nccl_bytes(kind, capability, processes)


def nccl_bytes(kind: str, capability: str | None, processes: int) -> int:
    """Guess what NCCL holds in each of so many processes that train together."""
    if kind != "cuda" or processes == 1 or capability is None:
        return 0
    two, more = NCCL_BYTES.get(_LIKE.get(capability.partition(".")[0], capability), (0, 0))
    return two if processes == 2 else more
