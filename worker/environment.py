"""What a trainer sees of the environment: what it needs, and no secret of whoever started the service. Pure."""

from collections.abc import Mapping
from pathlib import Path

_NAMES = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR VIRTUAL_ENV LD_LIBRARY_PATH LD_PRELOAD "
    "SSL_CERT_FILE SSL_CERT_DIR HF_HOME HF_HUB_OFFLINE TOKENIZERS_PARALLELISM WANDB_MODE SWANLAB_MODE".split()
)
_PREFIXES = tuple(
    "LC_ XDG_ PYTHON CUDA_ NVIDIA_ NCCL_ CUBLAS_ CUDNN_ OMP_ MKL_ OPENBLAS_ GOMP_ KMP_ "
    "TORCH_ TORCHINDUCTOR_ PYTORCH_ TRITON_ ATEN_".split()
)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep what a training program may need; drop broker and database URLs, tokens, and all that we don't know."""
    return {name: value for name, value in environment.items() if name in _NAMES or name.startswith(_PREFIXES)}


def trainer_environment(
    environment: Mapping[str, str],
    *,
    planned: Mapping[str, str],
    run_dir: Path,
    job_id: int,
    attempt: int,
    micro_batch: int,
    accumulation_steps: int,
) -> dict[str, str]:
    """The whole environment of a trainer; `planned` is the device's word and wins over what is inherited."""
    return inherited(environment) | {
        "PYTHONUNBUFFERED": "1",
        **planned,
        "MMQ_JOB_ID": str(job_id),
        "MMQ_ATTEMPT": str(attempt),
        "MMQ_MICRO_BATCH": str(micro_batch),
        "MMQ_ACCUMULATION_STEPS": str(accumulation_steps),
        "MMQ_RUN_DIR": str(run_dir),
        "MMQ_CHECKPOINT_DIR": str(run_dir / "checkpoints"),
    }
