"""What a service knows a run by: the same over all attempts, and no other's."""

import secrets
from pathlib import Path

from trainer.files.storage import write_file

LENGTH = 21  # SwanLab takes no other
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def run_id(run_dir: Path) -> str:
    """Give the run's identity, drawn at its first attempt and kept in its directory."""
    kept = run_dir / "report-id"
    if not kept.exists():
        write_file(kept, "".join(secrets.choice(_LETTERS) for _ in range(LENGTH)).encode())
    return kept.read_text()
