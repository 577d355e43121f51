"""A stand-in for the trainer that keeps its contract of files, signals and exit codes, and follows a script.

The script is `scenario.json` in the run directory: {"steps", "pause", "exit", "final", "term", "children", "die"}.
One that "lingers" makes its last step only once there is a file `go` in the run directory.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

config = json.loads(Path(sys.argv[1]).read_text())
run = Path(sys.argv[2])
scenario = json.loads((run / "scenario.json").read_text())
asked: list[int] = []
heeded: dict[str, int] = {}


def say(event: str, **more: object) -> None:
    line = json.dumps({"at": time.time(), "attempt": config["attempt"], "event": event, **more})
    with (run / "events.jsonl").open("a") as file:
        file.write(line + "\n")


def finish(code: int) -> None:
    if code == 0 and scenario.get("final", True):
        (run / "final").mkdir(exist_ok=True)
        (run / "final/model.safetensors").write_bytes(b"weights")
        (run / "final/config.json").write_text("{}")
        say("finished", step=scenario["steps"], loss=1.0, first_loss=3.0, peaks={"process_peak_bytes": 900})
    if code not in (0, 75):
        say("failed", exit_code=code, reason=scenario.get("reason", ""), message=scenario.get("message", ""))
    sys.exit(code)


if scenario.get("term") == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
(run / "environment.json").write_text(json.dumps(dict(os.environ)))
for _ in range(scenario.get("children", 0)):
    subprocess.Popen(["sleep", "300"])
print("the trainer speaks", flush=True)
say("started", pid=os.getpid(), step=0, total_steps=scenario["steps"], micro_batch=4, accumulation_steps=2)
for step in range(1, scenario["steps"] + 1):
    while step == scenario["steps"] and scenario.get("lingers") and not (run / "go").exists() and not asked:
        time.sleep(0.01)
    size = heeded.get("micro_batch", 4)
    say("step", step=step, total_steps=scenario["steps"], loss=4.0 - step, tokens_per_second=100.0,
        eta_seconds=1.0, micro_batch=size, accumulation_steps=8 // size, allocated_peak_bytes=500 + step)  # fmt: skip
    control = run / "control.json"
    if scenario.get("elastic") and control.exists() and (told := json.loads(control.read_text())) != heeded:
        heeded = told
        size, number, limit = told["micro_batch"], told["number"], told["limit_bytes"]
        say("resized", number=number, micro_batch=size, accumulation_steps=8 // size, limit_bytes=limit, step=step + 1)
    if step == scenario.get("out_of_memory_at"):
        say("out_of_memory", step=step, phase="forward", micro_batch=4, new_micro_batch=2)
    if step == scenario.get("die_at"):
        os.kill(os.getpid(), signal.SIGKILL)
    deadline = time.monotonic() + scenario.get("pause", 0)
    while time.monotonic() < deadline and not asked:
        time.sleep(0.01)
    if asked:
        say("checkpoint", step=step, path=f"checkpoints/step-{step}")
        finish(75)
finish(scenario.get("exit", 0))
