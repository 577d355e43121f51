"""Replays a run: of any micro-batch from a template, or a log just as it was.

Owns the order of sections, which is the rehearsal's and so the training loop's.
"""

from collections.abc import Sequence

from trainer.trace.log import Log, Phase, Stage
from trainer.trace.player import Player
from trainer.trace.template import Template, fit, gradients_of

_MAX_STEPS = 4
_MAX_CHUNKS = 4  # of a longer loop: more change nothing, each frees what the one before allocated


class Replay:
    """A template's run over micro-batches of certain rows."""

    def __init__(self, template: Template, player: Player) -> None:
        self._template = template
        self._player = player

    def run(self, step: Sequence[int], *, evaluation: int | None) -> None:
        """Play optimizer steps until no peak rises, an evaluation of two batches, and steps again."""
        self._play(Stage.WEIGHTS)
        self._play(Stage.OPTIMIZER)
        self._play(Stage.RESULTS)
        self._steps(step)
        if evaluation is not None:
            for iteration in range(2):
                self._play(Stage.EVALUATION, iteration, evaluation)
            self._play(Stage.REST)
            self._steps(step)

    def _steps(self, step: Sequence[int]) -> None:
        before = self._player.peaks
        for _ in range(_MAX_STEPS):
            for number, rows in enumerate(step):
                self._play(Stage.MICRO_BATCH, min(number, 1), rows)
            self._play(Stage.UPDATE)
            if self._player.peaks == before:
                return
            before = self._player.peaks

    def _play(self, stage: Stage, iteration: int = 0, rows: int = 0) -> None:
        """Play a stage, its inner loops too."""
        phase = Phase(stage, iteration)
        while True:
            self._section(phase, rows)
            loop = self._template.loops.get((stage, phase.loops_before))
            if loop is None:
                return
            for number, chunk_rows in enumerate(_chunks(loop.total.at(rows), loop.chunk_size)):
                self._section(phase._replace(iteration=min(number, 1), in_loop=True), chunk_rows)
            phase = phase._replace(loops_before=phase.loops_before + 1)

    def _section(self, phase: Phase, rows: int) -> None:
        self._player.play(phase, self._template.phases[phase], rows)


def replay_log(log: Log, player: Player) -> None:
    """Play a log just as it was."""
    gradients = gradients_of(log)
    for section in log.sections:
        player.play(section.phase, fit([section], gradients), 0)


def _chunks(total: int, size: int) -> list[int]:
    """List the rows of each chunk; of a long loop only as many as change anything."""
    whole, rest = divmod(total, size)
    return [size] * min(whole, _MAX_CHUNKS) + ([rest] if rest else [])
