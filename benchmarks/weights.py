"""What bfloat16 weights do to the loss: the ways of updating them, and of keeping the moments, against float32.

A small model learns the demo's text for a fixed number of steps, once for each way, from the same weights over the same
rows; then all go on from what float32 reached, at MiniMind's rate of fine-tuning, where an update is far below what a
bfloat16 can show. Prints the loss on rows held out. `make bench-weights` runs it.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from benchmarks.measure import Bar, judged, machine
from examples.demo import corpus
from trainer.config import Config, parse_config
from trainer.data.batches import collate
from trainer.data.run_data import RunData, open_data
from trainer.data.tokenizer import open_tokenizer
from trainer.loop import learning_rate
from trainer.memory.cpu import CpuDevice
from trainer.model.minimind import MiniMind, initialise
from trainer.steps.adamw import AdamW
from trainer.steps.optimizer import InPlace, Optimizer, Split, build_optimizer
from trainer.steps.split import rest_of
from trainer.steps.step import evaluation_loss, train_step
from trainer.steps.transfer import stream

MODEL = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}
SEEDS = (1,)
LENGTH, ROWS, HELD_OUT = 96, 8, 128
STEPS, RATE = 150, 2e-3
FINE_STEPS, FINE_RATE = 60, 1e-5
TOLERANCE = 1.002

Weights = Mapping[str, Tensor]
Place = Callable[[Mapping[str, nn.Parameter], AdamW], InPlace]


class Narrow(AdamW):
    """Moments rounded to bfloat16 after each update."""

    def update(self, weights: Weights, gradients: Weights, found_infinite: Tensor | None) -> None:
        super().update(weights, gradients, found_infinite)
        for name in gradients:
            for moments in (self.first, self.second):
                moments[name].copy_(moments[name].bfloat16())


class Rounded(InPlace):
    """Weights rounded to the nearest bfloat16 after each update: what is smaller is lost."""

    def apply(self, gradients: Weights, found_infinite: Tensor | None) -> None:
        for name, gradient in gradients.items():
            whole = self.wide(name)
            self.rule.update({name: whole}, {name: gradient.float()}, found_infinite)
            self.narrow(name, whole)

    def wide(self, name: str) -> Tensor:
        return self.parameters[name].detach().float()

    def narrow(self, name: str, whole: Tensor) -> None:
        self.parameters[name].copy_(whole)


class Stochastic(Rounded):
    """Rounded up or down, by chance, in proportion to how near each is."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: AdamW) -> None:
        super().__init__(parameters, rule)
        self.chance = torch.Generator().manual_seed(1)

    def narrow(self, name: str, whole: Tensor) -> None:
        noise = torch.randint(0, 1 << 16, whole.shape, dtype=torch.int32, generator=self.chance)
        bits = whole.view(torch.int32).add_(noise).bitwise_and_(-(1 << 16))
        self.parameters[name].copy_(bits.view(torch.float32))


class Compensated(Rounded):
    """Kahan's way: what rounding lost, itself in bfloat16, joins the next update."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: AdamW) -> None:
        super().__init__(parameters, rule)
        self.lost = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def wide(self, name: str) -> Tensor:
        return super().wide(name).add_(self.lost[name])

    def narrow(self, name: str, whole: Tensor) -> None:
        super().narrow(name, whole)
        self.lost[name].copy_(whole.sub_(self.parameters[name]))


class Way(NamedTuple):
    name: str
    bytes_a_weight: float  # with its gradient and all that the update keeps
    train: Mapping[str, str] = {}
    place: Place | None = None  # None: the trainer's own
    rule: type[AdamW] | None = None


HALF = {"weights": "bfloat16"}
WAYS = (
    Way("float32", 16),
    Way("float32, 8-bit moments", 10, {"optimizer": "adamw8bit"}),
    Way("bfloat16", 14, HALF),
    Way("bfloat16, 8-bit moments", 8, HALF | {"optimizer": "adamw8bit"}),
    Way("bfloat16, both moments too", 10, HALF, None, Narrow),
    Way("Kahan's sum", 14, HALF, Compensated),
    Way("stochastic rounding", 12, HALF, Stochastic),
    Way("stochastic, both moments too", 8, HALF, Stochastic, Narrow),
    Way("rounded to the nearest", 12, HALF, Rounded),
)


def main() -> int:
    torch.set_num_threads(1)
    lessons = f"{STEPS} steps at {RATE:g}, then {FINE_STEPS} at {FINE_RATE:g}"
    print(f"{lessons}, {ROWS} rows of {LENGTH} each; {len(SEEDS)} seeds; {machine()}\n")
    print(f"{'weights':<32}{'bytes':>6}{'loss':>9}{'over float32':>14}{'fine-tuned':>12}{'gain':>7}")
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder:
        course = Course(Path(folder))
        found = {way.name: _told(course, way) for way in WAYS}
    usual = found["float32"]
    return judged(
        [
            Bar("bfloat16_loss_over_float32", found["bfloat16"][0] / usual[0], TOLERANCE),
            Bar("bfloat16_gain_over_float32", found["bfloat16"][1] / usual[1], 0.98, at_least=True),
        ]
    )


class Course:
    """The same lessons for each way of keeping weights."""

    def __init__(self, folder: Path) -> None:
        corpus.write_pretrain(folder / "rows.jsonl")
        self.config = parse_config(
            {
                "kind": "pretrain",
                "model": MODEL,
                "data": {"path": str(folder / "rows.jsonl"), "max_seq_len": LENGTH, "validation": 0.1},
                "train": {"batch_size": ROWS, "accumulation_steps": 1, "max_steps": STEPS + FINE_STEPS},
            }
        )
        self.data: RunData = open_data(self.config, folder, open_tokenizer(self.config, folder), lambda: None)
        self.usual: dict[int, list[tuple[float, float]]] = {}
        self.reached: dict[int, dict[str, Tensor]] = {}

    def losses(self, way: Way, seed: int) -> tuple[float, float, float]:
        """Give the loss after the first lesson, and before and after the second."""
        config = msgspec.structs.replace(self.config, train=msgspec.structs.replace(self.config.train, **way.train))
        model = MiniMind(config, torch.device("cpu"))
        initialise(model, seed)
        self._teach(model, way, config, range(STEPS), RATE)
        first = self._loss(model)
        self.reached.setdefault(seed, {name: tensor.clone() for name, tensor in model.state_dict().items()})
        model.load_state_dict(self.reached[seed])
        before = self._loss(model)
        self._teach(model, way, config, range(STEPS, STEPS + FINE_STEPS), FINE_RATE, self.reached[seed])
        return first, before, self._loss(model)

    def _teach(
        self, model: MiniMind, way: Way, config: Config, steps: range, rate: float, start: Weights | None = None
    ) -> None:
        optimizer, device = _optimizer(model, way, config), CpuDevice()
        if start is not None and isinstance(optimizer, Compensated):
            for name, lost in optimizer.lost.items():
                lost.copy_(start[name] - start[name].bfloat16())
        elif start is not None and isinstance(optimizer, Split):
            for name, rest in optimizer.rest.items():
                rest.copy_(rest_of(start[name]))
        for turn, step in enumerate(steps, start=1):
            rows = self.data.rows_of_step(step)
            optimizer.learning_rate = learning_rate(rate, turn, len(steps))
            train_step(
                model,
                optimizer,
                stream(rows, ROWS, LENGTH, device),
                target_tokens=sum(row.targets for row in rows),
                grad_clip=1.0,
                chunked_loss=True,
            )

    def _loss(self, model: MiniMind) -> float:
        rows = [self.data.validation_file[index] for index in self.data.validation_rows[:HELD_OUT]]
        total = evaluation_loss(model, collate(rows, LENGTH), chunked_loss=True)
        return float(total) / sum(row.targets for row in rows)


def _optimizer(model: MiniMind, way: Way, config: Config) -> Optimizer:
    built = build_optimizer(model, config)
    if way.place is None and way.rule is None:
        return built
    assert isinstance(built, InPlace)
    rule = way.rule or AdamW
    made = rule(built.parameters, weight_decay=config.train.weight_decay, device=torch.device("cpu"))
    return (way.place or type(built))(built.parameters, made)


def _told(course: Course, way: Way) -> tuple[float, float]:
    firsts, befores, afters = zip(*(course.losses(way, seed) for seed in SEEDS), strict=True)
    course.usual.setdefault(0, list(zip(firsts, afters, strict=True)))
    over = statistics.mean(one / usual for one, (usual, _) in zip(firsts, course.usual[0], strict=True))
    gain = statistics.mean(b - a for b, a in zip(befores, afters, strict=True))
    first, after = statistics.mean(firsts), statistics.mean(afters)
    print(f"{way.name:<32}{way.bytes_a_weight:>6g}{first:>9.4f}{over:>14.4f}{after:>12.4f}{gain:>7.4f}", flush=True)
    return first, gain


if __name__ == "__main__":
    sys.exit(main())
