"""Replays a run: of any micro-batch from a template, or a log just as it was.

Owns the order of sections, which is the rehearsal's and so the training loop's.
"""

from collections.abc import Sequence

from trainer.trace.log import Log, Place
from trainer.trace.player import Player
from trainer.trace.template import Template, fit, gradients_of

_MOST_STEPS = 4
_MOST_PIECES = 4  # of a longer loop: more change nothing, each gives back what the one before took


class Replay:
    """A template's run over micro-batches of certain rows."""

    def __init__(self, template: Template, player: Player) -> None:
        self._template = template
        self._player = player

    def run(self, step: Sequence[int], *, evaluation: int | None) -> None:
        """Play optimizer steps until no peak rises, an evaluation of two batches, and steps again."""
        self._play("weights", 0, 0)
        self._play("optimizer", 0, 0)
        self._play("results", 0, 0)
        self._steps(step)
        if evaluation is not None:
            for turn in range(2):
                self._play("evaluation", turn, evaluation)
            self._play("rest", 0, 0)
            self._steps(step)

    def _steps(self, rows: Sequence[int]) -> None:
        before = self._player.peaks
        for _ in range(_MOST_STEPS):
            for turn, count in enumerate(rows):
                self._play("micro", min(turn, 1), count)
            self._play("update", 0, 0)
            if self._player.peaks == before:
                return
            before = self._player.peaks

    def _play(self, name: str, turn: int, rows: int) -> None:
        """Play all the parts of a stretch, and the loops between them."""
        part = 0
        while True:
            self._section(Place(name, turn, part), rows)
            loop = self._template.loops.get((name, part))
            if loop is None:
                return
            count, size = loop
            for index, piece in enumerate(_pieces(count.at(rows), size)):
                self._section(Place(f"{name}.piece", min(index, 1), part), piece)
            part += 1

    def _section(self, place: Place, rows: int) -> None:
        self._player.play(place, self._template.places[place], rows)


def replay_log(log: Log, player: Player) -> None:
    """Play a log just as it was."""
    gradients = gradients_of(log)
    for section in log.sections:
        player.play(section.place, fit([section], gradients), 0)


def _pieces(count: int, size: int) -> list[int]:
    """List the rows of each piece; of a long loop only as many as change anything."""
    whole, rest = divmod(count, size)
    return [size] * min(whole, _MOST_PIECES) + ([rest] if rest else [])
