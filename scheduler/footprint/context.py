"""What a process shows on a device beside its allocator: the CUDA context, or a virtual device's like of it.

The one place for these figures. A first guess per kind; a machine's own readings correct it.
"""

MIB = 1024**2
CUDA_CONTEXT_BYTES = 560 * MIB  # measured 270 to 560 MiB by GPU and driver with lazy loading; the high end
VIRTUAL_CONTEXT_BYTES = 64 * MIB  # by definition: small, so that demonstrations fit, and never nothing
CPU_CONTEXT_BYTES = 352 * MIB  # resident set of a bare trainer: interpreter, torch (220 MiB), threads, tokenizer

CONTEXT_BYTES = {"cuda": CUDA_CONTEXT_BYTES, "virtual": VIRTUAL_CONTEXT_BYTES, "cpu": CPU_CONTEXT_BYTES}
