"""What stores of fMRI and of features hold, for `neurofm check`."""

from typing import Any

from neurofm.data.records import Dataset


def store_facts(dataset: Dataset) -> dict[str, Any]:
    """Regions, subjects and timelines of fMRI; the model and sizes of features."""
    told, items = dataset.info.processing, dataset.items
    timelines = sorted({*items["timeline"].to_pylist()})
    shared = {"n_timelines": len(timelines), "timelines": timelines[:20]}
    if dataset.info.kind == "features":
        return {**told, **shared}
    masked = _masked(dataset)
    return {
        **told,
        "n_regions": dataset.info.n_chans,
        "n_regions_masked": len(masked),
        "regions_masked": masked[:20],
        "subjects": sorted({*items["subject"].to_pylist()}),
        "volumes": {
            "fewest": min(items["n_samples"].to_pylist()),
            "most": max(items["n_samples"].to_pylist()),
        },
        **shared,
    }


def next_command(kind: str, data: str, run: str) -> str:
    """What to type next, with a dataset of fMRI or of features at hand."""
    if kind == "fmri":
        return (
            f"neurofm prepare features EVENTS.tsv --extractor NAME --out {run}-features"
        )
    return (
        f"neurofm pretrain tribe/quickstart --workdir {run} data.path=FMRI "
        f"data.features={data}"
    )


def _masked(dataset: Dataset) -> list[str]:
    """Regions that some run lacks, by its first volume."""
    import numpy as np

    runs = range(len(dataset))
    first = dataset.read_many([(i, 0, 1) for i in runs])
    lacking = np.any([np.isnan(x[:, 0]) for x in first], axis=0)
    names = dataset.info.ch_names
    return [name for name, gone in zip(names, lacking, strict=True) if gone]
