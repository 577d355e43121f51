"""The data of a run: training and validation rows, and the order in which they come. Joins tokens and order."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Config
from trainer.data.batches import Row
from trainer.data.order import RowOrder, hold_out
from trainer.data.tokenizer import Tokenizer
from trainer.data.tokens import Counts, TokenFile, open_tokens, recipe_of

OWN_CACHE = "cache"  # in the run directory, where CONFIG names none; gone when the run is


@dataclass(frozen=True, kw_only=True)
class RunData:
    key: str  # of the content: a resumed run must find the same
    counts: Mapping[str, Counts]  # by path: of the rows, and of the validation file if it is another
    order: RowOrder
    validation_file: TokenFile
    validation_rows: list[int]  # longest first, so that evaluation's peak comes first
    training_file: TokenFile
    row_wait_seconds: float = 0.0

    def rows_of_step(self, number: int) -> list[Row]:
        """Give the rows of an optimizer step, counted from 0."""
        rows = [self.training_file[index] for index in self.order.step(number)]
        if self.row_wait_seconds:
            time.sleep(self.row_wait_seconds * len(rows))
        return rows

    def first_row(self) -> Row:
        """Give a row that shows what the data is like: of validation where there is one."""
        if self.validation_rows:
            return self.validation_file[min(self.validation_rows)]
        return self.training_file[self.order.step(0)[0]]


def open_data(config: Config, run_dir: Path, tokenizer: Tokenizer, check_stop: Callable[[], None]) -> RunData:
    """Tokenise what is not yet, hold out the validation rows, and fix the order."""
    recipe = recipe_of(config, tokenizer)
    cache = Path(config.data.cache) if config.data.cache else run_dir / OWN_CACHE
    training_file = open_tokens(Path(config.data.path), recipe, cache, check_stop)
    validation = config.data.validation
    if isinstance(validation, str):
        validation_file = open_tokens(Path(validation), recipe, cache, check_stop)
        training, held = hold_out(len(training_file), 0, config.train.seed)[0], range(len(validation_file))
    else:
        validation_file = training_file
        training, held_out = hold_out(len(training_file), validation, config.train.seed)
        held = held_out.tolist()
    order = RowOrder(
        training,
        seed=config.train.seed,
        effective_batch=config.effective_batch,
        epochs=config.epochs,
        max_steps=config.train.max_steps,
    )
    return RunData(
        key=f"{training_file.key} {validation_file.key}",
        counts={config.data.path: training_file.counts}
        | ({validation: validation_file.counts} if isinstance(validation, str) else {}),
        order=order,
        training_file=training_file,
        validation_file=validation_file,
        validation_rows=sorted(held, key=lambda row: -validation_file.length(row)),
        row_wait_seconds=config.data.row_wait_seconds,
    )
