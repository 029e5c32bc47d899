"""Vectors of words from a table: a word and its numbers a line.

Tabs or spaces part them, as in word2vec, fastText and GloVe given as text; a first
line of two whole numbers is their count and width and is passed over.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from neurofm.errors import NeuroFMError


@dataclass(frozen=True, eq=False)
class Vectors:
    """Word vectors; words are looked up as written, then in lower case.

    Attributes:
      id: name of the file and digest of its content.
      width: of a vector.
      known: word -> row of `rows`.
    """

    id: str
    width: int
    known: dict[str, int] = field(repr=False)
    rows: Float[np.ndarray, "words width"] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "Vectors":
        """Read a table.

        Raises:
          NeuroFMError: it cannot be read, or a line is no word with numbers.
        """
        known: dict[str, int] = {}
        rows: list[list[float]] = []
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                for number, raw in enumerate(file, 1):
                    digest.update(raw)
                    cells = raw.decode().rstrip("\r\n").split("\t")
                    if len(cells) == 1:
                        cells = cells[0].split()
                    if not cells or (number == 1 and len(cells) == 2):
                        continue
                    row = [float(cell) for cell in cells[1:]]
                    if not row or (rows and len(row) != len(rows[0])):
                        raise ValueError(f"line {number} has {len(row)} numbers")
                    known.setdefault(cells[0], len(rows))
                    rows.append(row)
        except (OSError, ValueError) as error:
            raise NeuroFMError(
                f"the word vectors {path} cannot be read ({error}); expected a word "
                "and its numbers a line"
            ) from error
        if not rows:
            raise NeuroFMError(f"the word vectors {path} hold no vector")
        name = f"{path.name} sha256:{digest.hexdigest()[:16]}"
        return cls(name, len(rows[0]), known, np.array(rows, np.float32))

    def of(
        self, words: Sequence[str]
    ) -> tuple[Float[np.ndarray, "W width"], list[str]]:
        """Vectors of words, zeros for those that are not known; and these."""
        out = np.zeros((len(words), self.width), np.float32)
        unknown = []
        for i, word in enumerate(words):
            row = self.known.get(word, self.known.get(word.lower()))
            if row is None:
                unknown.append(word)
            else:
                out[i] = self.rows[row]
        return out, unknown
