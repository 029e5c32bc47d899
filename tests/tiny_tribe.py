"""A small TRIBE with all of its parts, and batches for it made by hand."""

import numpy as np

from neurofm.models.tribe import Modality, Tribe

TRIBE = Tribe(
    modalities=(
        Modality(name="text", layers=2, width=5),
        Modality(name="audio", layers=1, width=3),
        Modality(name="video", layers=2, width=4),
    ),
    subjects=("anna", "ben", "cleo"),
    n_outputs=16,
    feature_steps=10,
    output_steps=4,
    width=24,
    depth=2,
    heads=2,
    max_steps=13,
    smoothing=3,
    subject_embedding=True,
    low_rank=10,
    unseen_subject=True,
    subject_dropout=0.3,
    modality_dropout_by="example",
    temporal_dropout=0.1,
)


def tribe_batch(task, rows=8, seed=5):
    """Examples of all subjects, some without a modality, ends of runs, a filler."""
    rng = np.random.default_rng(seed)
    batch = {
        f"features/{m.name}": rng.normal(
            0, 1, (rows, m.layers, m.width, task.feature_steps)
        ).astype(np.float32)
        for m in task.modalities
    }
    at = np.arange(rows)
    present = np.ones((rows, len(task.modalities)), bool)
    present[at % 3 == 1, 1] = False
    mask = rng.random((rows, task.n_outputs, 1)) > 0.1
    length = np.resize([task.output_steps, 2, task.output_steps, 3], rows)
    mask = mask & (np.arange(task.output_steps) < length[:, None, None])
    bold = rng.normal(0, 1, mask.shape).astype(np.float32)
    return {
        **batch,
        "features/present": present,
        "subject": (at % len(task.subjects)).astype(np.int32),
        "fmri/bold": np.where(mask, bold, np.nan).astype(np.float32),
        "fmri/mask": mask,
        "index": at.astype(np.int32),
        "valid": at % 5 != 3,
    }
