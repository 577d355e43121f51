"""A stand-in for the trainer: its contract of files, signals and exit codes, real checkpoints, and no torch.

Its loss follows from its state alone. Beside the data file `rows.jsonl`, `rows.json` may say {"pause": SECONDS A STEP},
"until": A FILE, for which it waits before its first step, "linger": A FILE, without which each step takes half a
second more and the last is not made, or {"real": true}: then it becomes the real trainer.
It says `doubled` where another one of its run directory lives. Of several processes under torch's launcher the first
does all the work.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.faults.curve import BEGINNING, after, loss_of

config = json.loads(Path(sys.argv[1]).read_text())
run = Path(sys.argv[2])
script = Path(config["data"]["path"]).with_suffix(".json")
told = json.loads(script.read_text()) if script.exists() else {}
if told.get("real"):
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[4])
    os.execv(sys.executable, [sys.executable, "-P", "-m", "trainer", *sys.argv[1:]])
pause = told.get("pause", 0.05)
steps, save_interval = config["train"]["max_steps"], config["train"]["save_interval"]
checkpoints = run / "checkpoints"
asked: list[int] = []


def say(event: str, **more: object) -> None:
    line = json.dumps({"at": time.time(), "attempt": config["attempt"], "event": event, **more})
    with (run / "events.jsonl").open("a") as file:
        file.write(line + "\n")


def put(directory: Path, files: dict[str, str]) -> None:
    """A directory that is complete or absent."""
    aside = directory.with_name(f".tmp-{directory.name}-{os.getpid()}")
    aside.mkdir(parents=True)
    for name, text in files.items():
        (aside / name).write_text(text)
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)


def save(step: int, link: str) -> None:
    state = json.dumps({"step": step, "link": link})
    facts = {"size_bytes": len(state), "sha256": hashlib.sha256(state.encode()).hexdigest()}
    manifest = {"step": step, "validation_loss": None, "files": {"state.json": facts}}
    put(checkpoints / f"step-{step}", {"state.json": state, "manifest.json": json.dumps(manifest)})
    say("checkpoint", step=step, path=f"checkpoints/step-{step}")
    for old in found()[2:]:
        shutil.rmtree(checkpoints / f"step-{old}")


def found() -> list[int]:
    return sorted((int(path.name[5:]) for path in checkpoints.glob("step-*")), reverse=True)


def newest() -> tuple[int, str]:
    for step in found():
        if (checkpoints / f"step-{step}" / "manifest.json").exists():
            state = json.loads((checkpoints / f"step-{step}" / "state.json").read_text())
            return state["step"], state["link"]
    return 0, BEGINNING


def lingers() -> bool:
    return "linger" in told and not Path(told["linger"]).exists()


signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
if "RANK" in os.environ:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, as the trainer does
    while int(os.environ["RANK"]) and not (run / "final").exists():
        if asked:
            sys.exit(75)
        time.sleep(0.1)
    if int(os.environ["RANK"]):
        sys.exit(0)
alone = (run / "standin.lock").open("a")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    say("doubled", pid=os.getpid())
    sys.exit(1)
first, link = newest()
resumed = None if first == 0 else str(checkpoints / f"step-{first}")
sizes = {"micro_batch": 8, "accumulation_steps": 1}
say("started", pid=os.getpid(), step=first, total_steps=steps, resumed_from=resumed, **sizes)
while "until" in told and not Path(told["until"]).exists() and not asked:
    time.sleep(0.1)
for step in range(first + 1, steps + 1):
    while step == steps and lingers() and not asked:
        time.sleep(0.1)
    link = after(link, step)
    say("step", step=step, total_steps=steps, loss=loss_of(link), tokens_per_second=100.0, eta_seconds=1.0,
        process_peak_bytes=70 << 20, **sizes)  # fmt: skip
    if step % save_interval == 0 or asked:
        save(step, link)
    if asked:
        say("failed", exit_code=75, reason="stopped", message="stopped")
        sys.exit(75)
    time.sleep(pause + 0.5 * lingers())
put(run / "final", {"model.safetensors": link, "config.json": "{}"})
say("finished", step=steps, loss=loss_of(link), first_loss=0.5, peaks={"process_peak_bytes": 70 << 20})
