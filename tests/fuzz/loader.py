"""What a job file may come to: a job that is stored and read back as it was, or a refusal. Anything else is a fault."""

from scheduler.errors import FileError, UsageError
from scheduler.jobs import jobfile, spec, trainer_config


def refused_or_read(text: str, overrides: tuple[str, ...] = ()) -> None:
    try:
        found, _ = jobfile.parse(text, file="job.yaml", overrides=overrides)
    except (FileError, UsageError):
        return
    again = spec.decode(spec.encode(found))
    assert spec.encode(again) == spec.encode(found)
    plan = {"micro_batch": 1, "activation_checkpointing": "off", "optimizer_offload": False, "chunked_loss": True}
    trainer_config.trainer_config(found, init_from_path=None, plan=plan, device={"kind": "cpu"}, attempt=1)
