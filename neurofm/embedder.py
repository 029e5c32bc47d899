"""Embeddings as a step of a scikit-learn pipeline."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from neurofm.model import Model, load


class Embedder(TransformerMixin, BaseEstimator):
    """Recordings in, the mean over tokens of one layer of a frozen model out.

    Nothing is learnt, so it may stand in a pipeline before a cross-validation, by
    groups or not, without a leak.

    Args:
      model: a run, a checkpoint, an imported or exported model; or a loaded one.
      layer: name or number of a layer.
      sfreq, info: of arrays, see `Model.embed`.
      batch_size: windows encoded at once.
    """

    def __init__(
        self,
        model: str | os.PathLike | Model,
        *,
        layer: str = "last",
        sfreq: float | None = None,
        info: Any = None,
        batch_size: int = 16,
    ):
        self.model = model
        self.layer = layer
        self.sfreq = sfreq
        self.info = info
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> "Embedder":
        """Load the model.

        Raises:
          NeuroFMError: there is none at that path.
        """
        del X, y
        given = self.model
        self.model_ = given if isinstance(given, Model) else load(given)
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "n D"]:
        """Embeddings of recordings.

        Args:
          X: recordings of sound (n, N) or (n, C, N), epochs (n, C, N) of EEG or MEG, an
            `mne.Epochs`; or a list of anything that `Model.embed` takes.

        Raises:
          NeuroFMError: one that the model cannot take, and why.
        """
        check_is_fitted(self, "model_")
        given = X if hasattr(X, "get_channel_types") else list(X)
        sfreq, info = self.sfreq, self.info
        if isinstance(given, list) and given and hasattr(given[0], "event_id"):
            # A cross-validation takes a set of MNE's epochs apart, one by one.
            info = given[0].info
            given, sfreq = np.concatenate([x.get_data() for x in given]), info["sfreq"]
        readings: Sequence[Any] = self.model_.embed(
            given,
            sfreq,
            info,
            layers=(self.layer,),
            pool="mean",
            batch_size=self.batch_size,
        )
        # One layer was asked for; by number it has the model's name.
        return np.concatenate([next(iter(each.values.values())) for each in readings])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")
