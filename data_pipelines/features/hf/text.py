"""Features of words by a language model of Hugging Face, each word after all before it.

The rule of TRIBE v2's released code (arXiv 2605.04326): a word is read with up to 1,024
words before it, no special tokens, cut on the left to what the model takes; its vector
is the mean over its own tokens.

Axes: W words, N hidden states, L layer groups, D width, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.features.events import Stretch
from data_pipelines.features.extractors import About
from data_pipelines.features.hf.opened import Opened, opened, tokenizer
from data_pipelines.features.words import held, timed
from data_pipelines.unreadable import Unreadable
from neurofm.signals import layers

CONTEXT = 1024  # words before a word that are read with it


@dataclass(frozen=True)
class Text:
    """Hidden states of each word, held for its duration; see the module.

    Attributes:
      path: folder of the model and its tokenizer.
      fractions, aggregation: see `layers.of_states`.
      batch_size: words read at once, each with what is before it.
    """

    path: str
    fractions: tuple[float, ...]
    aggregation: layers.Aggregation
    batch_size: int
    takes: str = "word"
    one_process: bool = True

    def about(self) -> About:
        model = opened(self.path, ("input_ids",))
        _, n_layers, width = self._vectors(model, ["a"]).shape
        told = {"fractions": list(self.fractions), "aggregation": self.aggregation}
        told |= {"context_words": CONTEXT}
        return About("text", model.id, n_layers, width, told)

    def __call__(self, stretch: Stretch, root: Path, sfreq: float, notes: list[str]):
        words = timed(stretch, root)
        if not (named := [word for word in words if word.text.strip()]):
            raise Unreadable(root, "words have no text", "words")
        if n := len(words) - len(named):
            notes.append(f"{n} of {len(words)} words have no text and are zeros")
        model = opened(self.path, ("input_ids",))
        vectors = self._vectors(model, [word.text.strip() for word in named])
        return held(stretch, named, vectors.reshape(len(named), -1), sfreq)

    def _vectors(
        self, model: Opened, words: Sequence[str]
    ) -> Float[np.ndarray, "W L D"]:
        """What the layers say of each word."""
        spell = tokenizer(model.path)
        longest = getattr(model.config, "max_position_embeddings", None) or -1
        limit = spell.model_max_length
        if longest > 0:  # some write -1 where there is no limit
            limit = min(limit, longest)
        read = [tokens(spell, before, whole) for before, whole in contexts(words)]
        out = []
        for i in range(0, len(read), self.batch_size):
            some = read[i : i + self.batch_size]
            states = word_states(model, [(t[-limit:], n) for t, n in some])
            out.append(layers.of_states(states, self.fractions, self.aggregation))
        return np.concatenate(out, 1).swapaxes(0, 1)


def contexts(words: Sequence[str]) -> list[tuple[str, str]]:
    """What is read before each word, and that with the word."""
    out = []
    for i, word in enumerate(words):
        before = words[max(0, i - CONTEXT) : i]
        out.append((" ".join(before), " ".join([*before, word])))
    return out


def tokens(spell: Any, before: str, whole: str) -> tuple[list[int], int]:
    """Tokens of a word with what is before it, and how many at the end are its own."""
    given, known = (
        spell(text, add_special_tokens=False)["input_ids"] if text else []
        for text in (whole, before)
    )
    return given, max(1, len(given) - len(known))


def word_states(
    model: Opened, read: Sequence[tuple[Sequence[int], int]]
) -> Float[np.ndarray, "N W D"]:
    """Mean of the hidden states over each word's own tokens, the last ones.

    Shorter texts are filled up on the right, where no token looks.
    """
    size = max(len(ids) for ids, _ in read)
    given = np.zeros((len(read), size), np.int64)
    seen = np.zeros((len(read), size), np.int64)
    weight = np.zeros((len(read), size), np.float32)
    for row, (ids, n) in enumerate(read):
        end, own = len(ids), min(n, len(ids))
        given[row, :end], seen[row, :end] = ids, 1
        weight[row, end - own : end] = 1 / own

    def pool(x: Any) -> Any:
        return (x * x.new_tensor(weight)[..., None]).sum(1)

    return model.states({"input_ids": given, "attention_mask": seen}, pool)
