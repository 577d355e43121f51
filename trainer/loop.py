"""The training loop, top to bottom: prepare, resume, step, report, evaluate, save, export.

Owns the order in which things happen in a run, and nothing else; each of them has a module of its own.
"""

import math
import shutil
from pathlib import Path

import torch

from trainer import export
from trainer.config import Config
from trainer.data import OWN_CACHE, RunData, open_data
from trainer.errors import Stopped
from trainer.evaluation import Evaluation
from trainer.events import EventLog
from trainer.generate import sample_text
from trainer.memory.device import Device, out_of_memory_numbers
from trainer.reports import Reports
from trainer.results import Results
from trainer.run import Run, prepare, save
from trainer.shrinking import ShrinkingStep
from trainer.stopping import StopRequest
from trainer.storage import remove_leftovers
from trainer.tokenizer import Tokenizer, open_tokenizer


def train(config: Config, run_dir: Path, device: Device, events: EventLog, stop: StopRequest) -> None:
    """Bring the run in `run_dir` to its end, from wherever it is; the caller holds `device.accounting()`."""
    # 1. The rows, in an order that the seed alone decides.
    remove_leftovers(run_dir)
    tokenizer = open_tokenizer(config, run_dir)
    data = open_data(config, run_dir, tokenizer, stop.check)

    # 2. The model, its optimizer, and where the run stands.
    run = prepare(config, run_dir, device, data.key, events)
    step = ShrinkingStep(config, device, events, run.model, run.optimizer, run.scaler)
    evaluation = Evaluation(config, device, data, events)
    state, total_steps = run.state, data.order.total_steps
    reports = Reports(config, device, events, run=run, step=step, total_steps=total_steps)
    reports.started(data)

    # 3. The steps. Losses stay on the device until a line is due: reading one would wait for the device.
    results, first = Results(device.torch_device, scaled=run.scaler is not None), state.step + 1
    for number in range(first, total_steps + 1):
        rows = data.rows_of_step(number - 1)
        run.optimizer.learning_rate = learning_rate(config.learning_rate, number, total_steps)
        results.add(number, step.run(number, rows))
        tokens = sum(row.targets for row in rows)
        state.step, state.target_tokens = number, state.target_tokens + tokens
        reports.step_done(tokens)
        milestone = number in (first, total_steps)
        if milestone or number % config.train.log_interval == 0:
            results.read()
            reports.step(results)
        if number == total_steps or stop or number % config.train.save_interval == 0:
            results.read()
            results.note(state)
            state.validation_loss = evaluation.run(run.model, number, stop)
            if state.validation_loss is not None:
                reports.evaluated(state.validation_loss)
            save(run, run_dir, device, events)
        if milestone:
            reports.memory("first step" if number == first else "last step")
        if stop:
            raise Stopped(f"stopped after step {number} of {total_steps}; it is saved")

    # 4. The result.
    sample = _sample(config, run, device, data, tokenizer, events)
    with device.host():
        export.write_final(run_dir, config, run.model, tokenizer, sample)
    shutil.rmtree(run_dir / OWN_CACHE, ignore_errors=True)
    reports.finished()


def learning_rate(peak: float, step: int, total_steps: int) -> float:
    """Give MiniMind's curve at a step counted from 1: half a cosine from the peak down to a tenth of it."""
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * step / total_steps)))


def _sample(config: Config, run: Run, device: Device, data: RunData, tokenizer: Tokenizer, events: EventLog) -> str:
    """Let the model write something, for a person to look at."""
    if config.sample.max_new_tokens == 0:
        return ""
    try:
        prompt, text = sample_text(run.model, device, config, tokenizer, data.first_row())
    except torch.OutOfMemoryError as error:
        numbers = out_of_memory_numbers(error, device)
        events.write("out_of_memory", step=run.state.step, phase="sample", new_micro_batch=None, **numbers)
        return ""  # the result is worth more than a look at it
    events.write("sample", step=run.state.step, prompt=prompt, text=text)
    return f"{prompt}\n---\n{text}\n"
