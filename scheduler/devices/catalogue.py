"""GPUs by name, for estimates on a machine that has none: what memory is usable, what they can compute.

Usable is what torch reports as `total_memory`: the card less what the driver keeps. It shrank by up to 150 MiB over
driver versions (a RTX 4090: 24217, 24210, 24177 MiB), so the lowest published figure is taken. Sources of the
measured ones: outputs of `torch.cuda.get_device_properties`, of CUDA's deviceQuery (A100 40GB, RTX 5090), of
Ultralytics' start lines, and capacities in torch's out-of-memory messages (RTX 3080, RTX 4090, A100 80GB) in public
repositories and issues, 2021 to 2026. No torch figure was found for the others: theirs is what nvidia-smi shows
less 500 MiB, a little above the 357 to 479 MiB by which the two differ where both are known (RTX 3060 to L40S).

Data and a lookup. Never consulted for a device that is there: NVML knows better.
"""

import difflib
import re
from dataclasses import dataclass

from scheduler.errors import UsageError
from scheduler.units import format_bytes, parse_bytes

_MIB = 1024**2
_RESERVE_MIB = 500
_SIZE = re.compile(r"\s*-?\d+(\.\d+)?\s*[kmgt]i?b?\s*", re.IGNORECASE)
_BARE = re.compile(r"\s*\d+(\.\d+)?\s*")
_MEMORY = re.compile(r"(?<![\w.])(\d+)\s*g(?:i?b)?(?![a-z0-9])")
_NOISE = re.compile(
    r"nvidia|geforce|tesla|quadro|rtx|pcie|blackwell|(?:server|workstation) edition|nvl|sxm\d?|hbm\d?e?|generation"
    r"|[^a-z0-9]"
)


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    name: str
    total_bytes: int  # usable
    capability: str | None  # compute capability; None: a size was given, not a GPU
    measured: bool  # by torch on such a card; False: a size, or nvidia-smi's figure less a typical reserve
    memory_gb: int | None  # as sold


def _gpu(name: str, memory_gb: int, capability: str, *, torch: int = 0, smi: int = 0) -> CatalogueEntry:
    """Make an entry of the MiB that torch reports or, less the reserve, of those that nvidia-smi shows."""
    usable_mib = torch or smi - _RESERVE_MIB
    return CatalogueEntry(
        name=f"{name} {memory_gb}GB",
        total_bytes=usable_mib * _MIB,
        capability=capability,
        measured=bool(torch),
        memory_gb=memory_gb,
    )


CATALOGUE = (
    _gpu("RTX 3060", 12, "8.6", torch=11931),
    _gpu("RTX 3060 Ti", 8, "8.6", smi=8192),
    _gpu("RTX 3070", 8, "8.6", torch=7753),
    _gpu("RTX 3070 Ti", 8, "8.6", smi=8192),
    _gpu("RTX 3080", 10, "8.6", torch=10014),
    _gpu("RTX 3080", 12, "8.6", smi=12288),
    _gpu("RTX 3080", 20, "8.6", smi=20480),
    _gpu("RTX 3080 Ti", 12, "8.6", torch=11910),
    _gpu("RTX 3090", 24, "8.6", torch=24139),
    _gpu("RTX 3090 Ti", 24, "8.6", torch=24114),
    _gpu("RTX 4060", 8, "8.9", torch=7807),
    _gpu("RTX 4060 Ti", 8, "8.9", smi=8188),
    _gpu("RTX 4060 Ti", 16, "8.9", smi=16380),
    _gpu("RTX 4070", 12, "8.9", torch=11994),
    _gpu("RTX 4070 SUPER", 12, "8.9", smi=12282),
    _gpu("RTX 4070 Ti", 12, "8.9", smi=12282),
    _gpu("RTX 4070 Ti SUPER", 16, "8.9", torch=15934),
    _gpu("RTX 4080", 16, "8.9", torch=16049),
    _gpu("RTX 4080 SUPER", 16, "8.9", smi=16376),
    _gpu("RTX 4090", 24, "8.9", torch=24176),
    _gpu("RTX 4090 D", 24, "8.9", torch=24111),
    _gpu("RTX 5060", 8, "12.0", smi=8151),
    _gpu("RTX 5060 Ti", 8, "12.0", smi=8151),
    _gpu("RTX 5060 Ti", 16, "12.0", torch=15841),
    _gpu("RTX 5070", 12, "12.0", smi=12227),
    _gpu("RTX 5070 Ti", 16, "12.0", smi=16303),
    _gpu("RTX 5080", 16, "12.0", torch=15840),
    _gpu("RTX 5090", 32, "12.0", torch=32117),
    _gpu("RTX 5090 D", 32, "12.0", smi=32607),
    _gpu("RTX PRO 6000", 96, "12.0", smi=97887),
    _gpu("RTX A4000", 16, "8.6", smi=16376),
    _gpu("RTX A4500", 20, "8.6", smi=20470),
    _gpu("RTX A5000", 24, "8.6", smi=24564),
    _gpu("RTX A6000", 48, "8.6", torch=48676),
    _gpu("RTX 4000 Ada", 20, "8.9", smi=20475),
    _gpu("RTX 5000 Ada", 32, "8.9", smi=32760),
    _gpu("RTX 6000 Ada", 48, "8.9", torch=45496),
    _gpu("T4", 16, "7.5", torch=14930),
    _gpu("V100", 16, "7.0", torch=16130),
    _gpu("V100", 32, "7.0", torch=32494),
    _gpu("A10", 24, "8.6", smi=23028),
    _gpu("A10G", 24, "8.6", smi=23028),
    _gpu("A30", 24, "8.0", smi=24576),
    _gpu("A40", 48, "8.6", smi=46068),
    _gpu("L4", 24, "8.9", smi=23034),
    _gpu("L20", 48, "8.9", smi=46068),
    _gpu("L40", 48, "8.9", smi=46068),
    _gpu("L40S", 48, "8.9", torch=45589),
    _gpu("A100", 40, "8.0", torch=40339),
    _gpu("A100", 80, "8.0", torch=81039),
    _gpu("A800", 80, "8.0", smi=81920),
    _gpu("H100", 80, "9.0", torch=81082),
    _gpu("H100", 94, "9.0", smi=95830),
    _gpu("H800", 80, "9.0", smi=81559),
    _gpu("H20", 96, "9.0", smi=97871),
    _gpu("GH200", 96, "9.0", smi=97871),
    _gpu("H200", 141, "9.0", torch=143156),
    _gpu("B200", 180, "10.0", torch=182630),
    _gpu("B300", 288, "10.3", smi=275040),
)


def find(text: str) -> CatalogueEntry:
    """Find a GPU by name (`RTX 3080 20GB`, `3080-20g`, `4090d`), or make one of a size (`24GiB`).

    If a model is sold in several sizes and none is named, the smallest: what fits there fits on the others.
    """
    if not text.strip():
        raise UsageError("an empty name is no GPU", hint="name one, like 'RTX 4090', or give a size, like 24GiB")
    if _SIZE.fullmatch(text):
        return _of_size(text.strip())
    model, memory_gb = _normalise(text)
    entries = [entry for entry in CATALOGUE if _model(entry) == model]
    if memory_gb is not None:
        entries = [entry for entry in entries if entry.memory_gb == memory_gb]
    if not entries and _BARE.fullmatch(text):
        raise UsageError(
            f"{text!r} is not a GPU known here, and without a unit it is no size", hint=f"like {text.strip()}GiB"
        )
    if not entries:
        raise UsageError(f"{text!r} is not a GPU known here", hint=_suggestion(model))
    return entries[0]


def _of_size(text: str) -> CatalogueEntry:
    total_bytes = 0 if text.startswith("-") else parse_bytes(text)
    if not total_bytes:
        raise UsageError(f"a GPU of {text} has no memory", hint="write it like 24GiB")
    return CatalogueEntry(
        name=format_bytes(total_bytes), total_bytes=total_bytes, capability=None, measured=False, memory_gb=None
    )


def _normalise(text: str) -> tuple[str, int | None]:
    """Split `NVIDIA A100-SXM4-80GB` into (`a100`, 80)."""
    lower = text.lower()
    memory = _MEMORY.search(lower)
    return _NOISE.sub("", _MEMORY.sub("", lower)), int(memory[1]) if memory else None


def _model(entry: CatalogueEntry) -> str:
    return _normalise(entry.name)[0]


def _suggestion(model: str) -> str:
    close = difflib.get_close_matches(model, {_model(entry): None for entry in CATALOGUE}, n=3, cutoff=0.5)
    names = [entry.name for nearest in close for entry in CATALOGUE if _model(entry) == nearest]
    size = "any size can be given instead, like 24GiB"
    return f"did you mean {', '.join(names)}? Or {size}" if names else size
