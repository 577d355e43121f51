"""mmq as a person meets it: commands in a subprocess, JSON from stdout. Imports nothing of mmq's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MMQ = str(Path(sys.executable).with_name("mmq"))


class Service:
    """One home of mmq, with its broker, controller and worker."""

    def __init__(self, home: Path, devices: str) -> None:
        self._devices = devices
        ours = {"MMQ_HOME": str(home), "MMQ_DEVICES": devices}
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("MMQ_")} | ours

    def __enter__(self) -> "Service":
        self.run("up", "--detach", "--devices", self._devices)
        return self

    def __exit__(self, *_: object) -> None:
        self.run("down", "--stop-jobs")

    def run(self, *arguments: str) -> str:
        """Run one command and return its stdout; its stderr goes to ours, a failure raises."""
        command = [MMQ, *arguments]
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))
