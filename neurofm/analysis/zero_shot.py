"""Classification and retrieval by similarity of sound and text, without training.

Source: Radford et al. (arXiv 2103.00020); for sound, Wu et al. (arXiv 2211.06687).

Axes: N clips, C classes, T templates, M captions, D width.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from neurofm.analysis import retrieval
from neurofm.analysis.retrieval import average_precision, unit


def class_embeddings(text: Float[np.ndarray, "C T D"]) -> Float[np.ndarray, "C D"]:
    """One unit vector a class: the mean of its templates' unit vectors."""
    return unit(unit(text).mean(1))


def logits(
    audio: Float[np.ndarray, "N D"], text: Float[np.ndarray, "C D"], scale: float = 1.0
) -> Float[np.ndarray, "N C"]:
    """Scaled cosines."""
    return scale * retrieval.cosine(audio, text)


def accuracy(
    logits: Float[np.ndarray, "N C"],
    label: Int[np.ndarray, " N"],
    ks: Sequence[int] = (1,),
) -> dict[str, float]:
    """Share of clips whose class is among the first k; ties count as failures."""
    rank = retrieval.ranks(logits, label)
    return {f"top{k}": float(np.mean(rank <= k)) for k in ks}


def class_precision(
    cosines: Float[np.ndarray, "N C"], target: Bool[np.ndarray, "N C"]
) -> Float[np.ndarray, " C"]:
    """Average precision of each class over clips, tied clips as one threshold.

    Of cosines: a softmax over classes would change the order of clips.
    """
    from neurofm.analysis.hear.scores import average_precision as of_class

    return of_class(target, cosines)


def captions(
    audio: Float[np.ndarray, "N D"],
    text: Float[np.ndarray, "M D"],
    clip: Int[np.ndarray, " M"],
) -> dict[str, dict[str, float]]:
    """Retrieval both ways where clips have several captions.

    Text to audio is by caption; audio to text by the best-ranked caption of a clip, of
    which ties among themselves are no failure. `map10` divides by min(10, relevant).
    """
    s = retrieval.cosine(text, audio)
    own = clip[:, None] == np.arange(len(audio))
    found = {}
    for name, similarity, relevant in (
        ("text_to_audio", s, own),
        ("audio_to_text", s.T, own.T),
    ):
        found[name] = retrieval.scores(
            best_rank(similarity, relevant), similarity.shape[1]
        )
        precision = average_precision(similarity, relevant, 10)
        found[name]["map10"] = float(precision.mean())
    return found


def best_rank(
    similarity: Float[np.ndarray, "Q N"], relevant: Bool[np.ndarray, "Q N"]
) -> Int[np.ndarray, " Q"]:
    """Rank of the best relevant item among the irrelevant ones; ties are failures."""
    best = np.where(relevant, similarity, -np.inf).max(1, keepdims=True)
    ahead = ~(similarity < best - retrieval.tie(similarity))
    return 1 + (~relevant & ahead).sum(1)
