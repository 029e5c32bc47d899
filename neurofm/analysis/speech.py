"""What a layer tells of words and phones, without a fitted probe.

Source: Pasad et al., "Layer-wise analysis of a self-supervised speech representation
model" (arXiv 2107.04734), and their later word-level study.

Axes: N segments, D width, K clusters.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.errors import NeuroFMError


def word_discrimination(
    embeddings: Float[np.ndarray, "N D"], words: Shaped[np.ndarray, " N"]
) -> float:
    """Average precision of same-word pairs among all pairs, ranked by cosine.

    Raises:
      NeuroFMError: no word was said twice, or one word only.
    """
    from sklearn.metrics import average_precision_score

    first, second = np.triu_indices(len(words), 1)
    same = words[first] == words[second]
    if not same.any() or same.all():
        raise NeuroFMError(
            f"{len(words)} segments hold {len(np.unique(words))} words: give some "
            "words twice, and two words or more"
        )
    unit = np.asarray(embeddings, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return float(average_precision_score(same, np.sum(unit[first] * unit[second], 1)))


def nearest_cluster(
    features: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"]
) -> Int[np.ndarray, " N"]:
    """The centroid that each segment is closest to; the first of equals."""
    from scipy.spatial.distance import cdist

    return cdist(features, centroids, "sqeuclidean").argmin(1)


def mutual_information(
    clusters: Int[np.ndarray, " N"], labels: Shaped[np.ndarray, " N"]
) -> tuple[float, float]:
    """Plug-in mutual information in nats, and its share of the labels' entropy."""
    joint = _counts(clusters, labels) / len(labels)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    shared = float(np.sum(joint[there] * np.log(joint[there] / apart[there])))
    p = joint.sum(0)
    return shared, shared / float(-np.sum(p * np.log(p)))


def _counts(a, b):
    _, i = np.unique(a, return_inverse=True)
    _, j = np.unique(b, return_inverse=True)
    return np.bincount(
        i * (j.max() + 1) + j, minlength=(i.max() + 1) * (j.max() + 1)
    ).reshape(i.max() + 1, j.max() + 1)
