"""Whole recordings through a model that sees one window at a time.

A recording is cut into windows, each is read on its own, and the tokens are laid end to
end again. Without overlap this is the released WavJEPA procedure (arXiv 2509.23238,
embedding export): windows of the model's own length, none added where the recording
ends on a border.

Axis letter: T tokens.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from neurofm.contract import InputContract
from neurofm.errors import NeuroFMError


@dataclass(frozen=True)
class Windows:
    """How recordings are cut; all in samples.

    Attributes:
      length: recording that one window holds.
      hop: from the start of one window to the next, less than `length` where windows
        overlap.
      token_hop: from one token to the next.
    """

    length: int
    hop: int
    token_hop: int

    def starts(self, n_samples: int) -> list[int]:
        """First samples of the windows of a recording.

        Where windows overlap, the last one is moved back to be as full as the grid of
        tokens allows, so that its tokens have as much context as any other's.
        """
        starts = list(range(0, max(1, n_samples - self.length + self.hop), self.hop))
        if self.hop < self.length and len(starts) > 1:
            flush = -(-(n_samples - self.length) // self.token_hop) * self.token_hop
            starts[-1] = min(starts[-1], flush)
        return starts

    def owned(
        self, at: Float[np.ndarray, " T"], starts: list[int], k: int
    ) -> Bool[np.ndarray, " T"]:
        """Tokens of window `k` that no other window holds more centrally.

        Args:
          at: token centres in samples from the start of the recording.
        """
        own = np.ones(len(at), bool)
        if self.hop == self.length:
            return own
        if k > 0:
            own &= at >= (starts[k - 1] + self.length + starts[k]) / 2
        if k + 1 < len(starts):
            own &= at < (starts[k] + self.length + starts[k + 1]) / 2
        return own


def plan(
    contract: InputContract, window_s: float | None = None, overlap_s: float = 0.0
) -> Windows:
    """Windows of `window_s` seconds (default: all the model sees) with an overlap.

    An overlap is lengthened to the next that leaves all windows on one unbroken grid of
    tokens.

    Raises:
      NeuroFMError: a window the model cannot see, or an overlap as long as the window.
    """
    most, sfreq, token_hop = (
        contract.window_samples,
        contract.sfreq,
        contract.hop_samples,
    )
    if not all(map(math.isfinite, (window_s or 0.0, overlap_s))):
        raise NeuroFMError(
            f"a window of {window_s} s with an overlap of {overlap_s} s was asked for: "
            "give numbers of seconds"
        )
    length = most if window_s is None else round(window_s * sfreq)
    if not contract.receptive_samples <= length <= most:
        raise NeuroFMError(
            f"a window of {window_s} s is {length} samples at {sfreq:g} Hz: this model "
            f"takes {contract.receptive_samples} to {most} samples, at most "
            f"{most / sfreq:.4g} s"
        )
    if overlap_s == 0:
        return Windows(length, length, token_hop)
    least = contract.receptive_samples - token_hop  # else a token falls between windows
    overlap = max(round(overlap_s * sfreq), least)
    hop = (length - overlap) // token_hop * token_hop
    if overlap_s < 0 or hop < 1:
        raise NeuroFMError(
            f"an overlap of {overlap_s} s does not fit a window of "
            f"{length / sfreq:.4g} s: give 0 to {(length - token_hop) / sfreq:.4g} s"
        )
    return Windows(length, hop, token_hop)
