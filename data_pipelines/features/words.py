"""Features of words: how many there are, and vectors from a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_pipelines.features.events import Event, Stretch
from data_pipelines.features.extractors import About
from data_pipelines.features.vectors import Vectors
from data_pipelines.unreadable import Unreadable
from neurofm.signals import classic
from neurofm.signals.timegrid import Grid, words_on_grid


@dataclass(frozen=True)
class WordRate:
    """Words that begin in a step, a second."""

    takes: str = "word"
    one_process: bool = False

    def about(self) -> About:
        return About("text", "word_rate", 1, 1)

    def __call__(self, stretch, root, sfreq, notes):
        onsets = np.array([event.onset for event in stretch.events])
        n = _n_word_steps(stretch, sfreq)
        return classic.word_rate(onsets - stretch.onset, sfreq, n)


@dataclass(frozen=True)
class WordVectors:
    """Vectors of words from a table, each held for its word; see `vectors`."""

    table: Vectors
    takes: str = "word"
    one_process: bool = False

    def about(self) -> About:
        return About("text", self.table.id, 1, self.table.width)

    def __call__(self, stretch, root, sfreq, notes):
        words = timed(stretch, root)
        vectors, unknown = self.table.of([event.text for event in words])
        if unknown:
            notes.append(
                f"{len(unknown)} of {len(words)} words have no vector and are zeros "
                f"(the first is {unknown[0]!r})"
            )
        return held(stretch, words, vectors, sfreq)


def timed(stretch: Stretch, root: Path) -> list[Event]:
    """The words of a stretch; Unreadable where one has no duration."""
    words = [e for e in stretch.events if e.duration is not None]
    if len(words) < len(stretch.events):
        raise Unreadable(root, "words need a duration each", "words")
    return words


def held(
    stretch: Stretch,
    words: Sequence[Event],
    vectors: Float[np.ndarray, "W C"],
    sfreq: float,
) -> Float[np.ndarray, "C T"]:
    """Vectors of words, each held for its word and added up."""
    grid = Grid(stretch.onset, sfreq, _n_word_steps(stretch, sfreq))
    onsets = [event.onset for event in words]
    return words_on_grid(grid, vectors, onsets, [e.duration or 0 for e in words])


def _n_word_steps(stretch: Stretch, sfreq: float) -> int:
    end = max(e.onset + (e.duration or 1 / sfreq) for e in stretch.events)
    return max(1, int(np.ceil((end - stretch.onset) * sfreq - 1e-9)))
