"""Run the demo: build the data, start the service, submit five jobs, watch them, and hold the result to its promises.

Exits 0 only if every job succeeded, every loss fell, at least two jobs shared a device, and the job that insisted on a
micro-batch too large was halved at least once and kept its effective batch.
"""

import shutil
import sys
import time
from pathlib import Path

from examples.demo.corpus import write_pretrain, write_sft
from examples.demo.service import Service
from examples.demo.verdict import Story, findings

HERE = Path(__file__).parent
WORK = Path(".demo")
DEVICES = "virtual:2x512MiB"
JOBS = ("pretrain", "sft", "greedy", "narrow", "deep")
DEADLINE_SECONDS = 900
SHOWN = ("state", "waiting", "device", "micro_batch")  # a change in these is shown again where nothing is redrawn
REDRAW_SECONDS = 2.0
CLEAR = "\x1b[2J\x1b[H"


def main() -> int:
    started = time.monotonic()
    _prepare()
    with Service(WORK.absolute() / "home", DEVICES) as service:
        for name in JOBS:
            job = service.ask("submit", str(WORK / f"{name}.yaml"))
            print(f"submitted {name} as job {job['id']}")
        _watch(service)
        stories = [Story.of(service.ask("status", name)) for name in JOBS]
    print(_table(stories))
    print(_generated(stories[JOBS.index("sft")]))
    return _judge(stories, time.monotonic() - started)


def _prepare() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    for job_file in (HERE / "jobs").glob("*.yaml"):
        shutil.copy(job_file, WORK)
    texts, answers = write_pretrain(WORK / "pretrain.jsonl"), write_sft(WORK / "sft.jsonl")
    print(f"wrote {texts} rows of the Python language reference and {answers} questions on its library")


def _watch(service: Service) -> None:
    """Show `mmq status` while anything lives: redrawn on a terminal, once a change in a pipe."""
    shown, deadline = None, time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        jobs = service.ask("status", "--all")["jobs"]
        states = [[job[key] for key in SHOWN] for job in jobs]
        if sys.stdout.isatty():
            print(CLEAR + service.run("status"), flush=True)
        elif states != shown:
            print(service.run("status"), flush=True)
        shown = states
        if all(job["state"] in ("succeeded", "failed", "cancelled") for job in jobs):
            return
        time.sleep(REDRAW_SECONDS)
    print(f"gave up after {DEADLINE_SECONDS} s", file=sys.stderr)


def _table(stories: list[Story]) -> str:
    head = (
        "job",
        "state",
        "device",
        "micro x acc",
        "attempts",
        "predicted",
        "measured",
        "first loss",
        "last loss",
    )
    rows = [head, *(_row(story) for story in stories)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n" + "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _row(story: Story) -> tuple[str, ...]:
    job, losses = story.job, story.losses or [float("nan")]
    split = f"{job['micro_batch']} x {job['accumulation_steps']}"
    peaks = (_mebibytes(job["predicted_peak_bytes"]), _mebibytes(job["measured_peak_bytes"]))
    ends = (f"{losses[0]:.3f}", f"{losses[-1]:.3f}")
    return (job["name"], job["state"], job["device"] or "-", split, str(len(story.attempts)), *peaks, *ends)


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def _generated(story: Story) -> str:
    path = Path(story.job["run_dir"]) / "final" / "generated.txt"
    return f"\nfrom the SFT model:\n{path.read_text(encoding='utf-8')}" if path.exists() else "\nno generated text"


def _judge(stories: list[Story], seconds: float) -> int:
    checks = list(findings(stories, greedy="greedy"))
    print()
    for holds, sentence in checks:
        print(f"{'ok' if holds else 'FAILED':8}{sentence}")
    print(f"\n{sum(holds for holds, _ in checks)} of {len(checks)} hold, in {seconds:.0f} s")
    return 0 if all(holds for holds, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
