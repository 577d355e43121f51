"""Where a run stands: its weights, optimizer, scaler and counters; from the start, or from its newest checkpoint.

Owns what a checkpoint must hold for a resumed run to go on bit for bit, and the refusal to resume another run's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from trainer.config import Config
from trainer.errors import BadConfiguration, BadData, NonFiniteLoss
from trainer.files import checkpoint
from trainer.files.checkpoint import Checkpoint, RunState
from trainer.files.weights import load_weights, misfit, read_weights
from trainer.memory.cpu import CpuDevice
from trainer.memory.device import Device
from trainer.model.lora import adapt, initialise_adapters
from trainer.model.minimind import MiniMind, initialise
from trainer.processes.group import Group, any_of
from trainer.processes.parts import Part, parts_of
from trainer.reporting.events import EventLog
from trainer.reporting.log import say
from trainer.steps.optimizer import Optimizer, build_optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.split import rest_of


@dataclass(frozen=True, kw_only=True)
class Run:
    model: MiniMind
    optimizer: Optimizer
    scaler: LossScaler | None
    weights: Mapping[str, Part]  # of this process; under FSDP the model's own are, at times, the gathered ones
    state: RunState  # changes with each step
    resumed_from: Path | None

    def training_tensors(self) -> dict[str, Part]:
        """Name all tensors beside the weights that the next step depends on; the live ones, not copies."""
        parts = {"optimizer": self.optimizer.state()} | ({"scaler": self.scaler.state()} if self.scaler else {})
        named = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        return {name: Part(tensor, self._layout(name, tensor)) for name, tensor in named.items()} | {
            "random": Part(random := torch.get_rng_state(), random)
        }

    def _layout(self, name: str, state: Tensor) -> Tensor:
        """What is called `optimizer.first.WEIGHT` lies as that weight does."""
        weight = self.weights.get(name.split(".", 2)[-1])
        return state if weight is None else weight.like

    @property
    def parameters(self) -> int:
        return sum(part.shape.numel() for part in self.weights.values())


def prepare(config: Config, run_dir: Path, device: Device, data_key: str, events: EventLog, group: Group) -> Run:
    """Build the run on the device, resumed if there is a checkpoint to resume from."""
    identity = _identity(config, data_key)
    saved = _newest(config, identity, run_dir, device, events)
    torch.manual_seed(config.train.seed)
    model = _model(config, device, saved, group)
    if config.train.compile:
        _compile(model, config, device)
    optimizer = build_optimizer(model, config, device.host)
    scaler = LossScaler(device.torch_device) if config.train.dtype == "float16" else None
    model.balance.scale = None if scaler is None else scaler.scale
    state = saved.state if saved else RunState(step=0, identity=identity)
    run = Run(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        weights=parts_of(model.named_parameters()),
        state=state,
        resumed_from=saved.path if saved else None,
    )
    if saved:
        _restore(run, saved.training, device)
    elif config.init_from and config.train.weights == "bfloat16" and not config.adapts:
        with device.host():
            _take_up_rest(run, read_weights(Path(config.init_from)))
    return run


def save(run: Run, run_dir: Path, device: Device, events: EventLog, group: Group) -> None:
    """Write a checkpoint of this very moment; NonFiniteLoss for weights that are lost, so that the last stays good.

    The first process writes; the others are needed where each holds a part.
    """
    if group.rank > 0 and not group.spreads:
        return
    with device.host(), torch.no_grad():
        norms = torch.stack(torch._foreach_norm([part.held for part in run.weights.values()]))
        lost = not norms.isfinite().all()
        if any_of(group, lost) if group.spreads else lost:
            raise NonFiniteLoss(
                f"step {run.state.step}: the weights are no longer finite; the last checkpoint is from before that"
                "\nhint: lower train.learning_rate"
            )
        if group.rank > 0:
            checkpoint.lend(run.weights, run.training_tensors())
            return
        path = checkpoint.save(run_dir / "checkpoints", run.state, run.weights, run.training_tensors())
    events.write("checkpoint", step=run.state.step, path=str(path))
    say(f"saved {path}")


def whole_model(run: Run, config: Config, device: Device, group: Group) -> tuple[MiniMind, Device]:
    """Give a model that one process can run alone, and where: the run's own, or one on the host where it is spread.

    Every process must call this; only the first gets the weights.
    """
    if not group.spreads:
        return run.model, device
    host = CpuDevice()
    with device.host(), torch.no_grad():
        model = MiniMind(config, host.torch_device if group.rank == 0 else torch.device("meta"))
        if config.adapts:
            adapt(model, config.train)
        parameters = dict(model.named_parameters())
        for name, part in run.weights.items():
            parameters[name].copy_(part.whole())
    return model, host


def take_best(run: Run, model: MiniMind, run_dir: Path, device: Device, events: EventLog) -> None:
    """Put the weights of the best checkpoint in place of the last; the last stay where it is damaged."""
    best_step = run.state.validation.best_step
    if best_step is None or best_step == run.state.step:
        return
    try:
        with device.host():
            weights = checkpoint.load_weights_of(run_dir / "checkpoints", best_step)
            load_weights(model, weights, f"checkpoint of step {best_step}")
    except checkpoint.DamagedCheckpoint as error:
        events.write("checkpoint_damaged", message=f"{run_dir / 'checkpoints'}/step-{best_step}: {error}")
        say(f"the best checkpoint is damaged, so the last weights are the result: {error}")


def _newest(
    config: Config, identity: Mapping[str, Any], run_dir: Path, device: Device, events: EventLog
) -> Checkpoint | None:
    def differs(saved: Checkpoint) -> str | None:
        _check_same(saved, identity, run_dir)
        shapes = MiniMind(config, torch.device("meta"))
        if config.adapts:
            adapt(shapes, config.train)
        return misfit(shapes, saved.model)

    with device.host():
        newest, damage = checkpoint.load_newest(run_dir / "checkpoints", differs)
    for message in damage:
        events.write("checkpoint_damaged", message=message)
        say(f"a checkpoint is passed over: {message}")
    if damage and not newest:
        say("no complete checkpoint is left: the run begins anew")
    return newest


def _model(config: Config, device: Device, saved: Checkpoint | None, group: Group) -> MiniMind:
    """Build the model; one that is spread is whole on the host first, and only a part of it goes to the device."""
    if not group.spreads:
        model = MiniMind(config, device.torch_device)
        _set_weights(model, config, device, saved)
        return model
    with device.host():
        model = MiniMind(config, torch.device("cpu"))
        _set_weights(model, config, device, saved)
    group.spread(model)
    return model


def _compile(model: MiniMind, config: Config, device: Device) -> None:
    if device.kind == "virtual":
        say("train.compile: a virtual device counts what operators take one by one, so nothing is compiled")
        return
    from trainer.model.compiled import compile_blocks

    compile_blocks(model, config, device.torch_device)


def _set_weights(model: MiniMind, config: Config, device: Device, saved: Checkpoint | None) -> None:
    if not saved:
        with device.host():
            _set_first_weights(model, config)
    if config.adapts:
        adapt(model, config.train)
        with device.host():
            initialise_adapters(model, config.train.seed)
    if saved:
        with device.host():
            load_weights(model, saved.model, f"checkpoint {saved.path}")


def _set_first_weights(model: MiniMind, config: Config) -> None:
    if config.init_from:
        source = Path(config.init_from)
        load_weights(model, read_weights(source), f"init_from {source}")
    elif config.adapts:
        raise BadConfiguration("init_from: train.method lora needs weights to adapt\nhint: set init_from")
    else:
        initialise(model, config.train.seed)


def _restore(run: Run, saved: Mapping[str, Tensor], device: Device) -> None:
    with device.host(), torch.no_grad():
        expected = run.training_tensors()
        for name in sorted(expected.keys() | saved.keys()):
            if name not in expected or name not in saved or saved[name].shape != expected[name].shape:
                raise BadConfiguration(
                    f"{run.resumed_from}: {name[:80]!r} of the optimizer's state does not fit this run"
                    f"\nhint: rm -r {run.resumed_from}  # then it goes on from the one before"
                )
        for name, part in expected.items():
            if name != "random":
                part.fill(saved[name])
        torch.set_rng_state(saved["random"])


def _take_up_rest(run: Run, first_weights: Mapping[str, Tensor]) -> None:
    """Keep what the weights that the run starts from lack in bfloat16.

    Without it all would stand right on a bfloat16, and small updates show in none of them for a long time.
    """
    for name, part in run.training_tensors().items():
        kind, _, weight = name.removeprefix("optimizer.").partition(".")
        if kind == "rest":
            part.fill(rest_of(first_weights[weight]))


def _identity(config: Config, data_key: str) -> dict[str, Any]:
    """Collect what shapes the result; plan, device and how often to report do not."""
    train = msgspec.to_builtins(config.train)
    intervals = ("log_interval", "save_interval", "eval_interval", "sample_interval")
    free = (*intervals, "packing", "compile", "early_stop", "batch_size", "accumulation_steps")
    return {
        **{name: value for name, value in train.items() if name not in free},
        "kind": config.kind,
        "model": msgspec.to_builtins(config.model),
        "max_seq_len": config.max_seq_len,
        "validation": config.data.validation,
        "learning_rate": config.learning_rate,
        "effective_batch": config.effective_batch,
        "epochs": config.epochs,
        "data": data_key,
    }


def _check_same(saved: Checkpoint, identity: Mapping[str, Any], run_dir: Path) -> None:
    before = saved.state.identity
    differing = [name for name in identity if before.get(name) != identity[name]]
    if differing == ["data"]:
        remedy = "put the file back as it was, or use another run directory"
        reason = f"its content has changed since the run in {run_dir} began"
        raise BadData("data.path or data.validation", None, None, reason, remedy)
    for name in differing:
        raise BadConfiguration(
            f"{run_dir} holds a run with another {name}: {before.get(name)} there, {identity[name]} here"
            "\nhint: use another run directory"
        )
