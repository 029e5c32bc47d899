"""The suite `probe`: how much frozen embeddings tell about labels, and beside what.

The same probes (`neurofm.eval.probe`) are put on every layer of a model, on the same
network untrained, and on log-mel features or band power; they are chosen on validation
rows and scored on test rows.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt

from neurofm import files, stores
from neurofm.contract import InputContract
from neurofm.data.records import Dataset, open_dataset
from neurofm.embedding import electrodes
from neurofm.errors import NeuroFMError
from neurofm.eval import by_electrode, by_example, nested, pieces, probe, split_file
from neurofm.eval import examples as exampling
from neurofm.eval.baselines import log_mel_candidates
from neurofm.eval.connectomes import connectome_candidates
from neurofm.eval.examples import Examples
from neurofm.eval.features import (
    Candidates,
    Embed,
    Pool,
    network_pools,
    piece_pools,
    vectors,
)
from neurofm.eval.label_counts import curves
from neurofm.eval.pieces import Pieces, Recordings
from neurofm.eval.rhythms import BAND_POWER, band_power_candidates, of_examples
from neurofm.eval.scores import compare, of_each, probe_all, scored
from neurofm.report import electrode_scores
from neurofm.suites.entrants import BRAIN, Entrant, entrant

_log = logging.getLogger(__name__)

PAIRS = (("model", "untrained"), ("model", "baseline"), ("model", "supervised"))


@dataclass(frozen=True)
class Settings:
    """What is predicted, and how examples are parted.

    Attributes:
      target: see `neurofm.eval.examples.from_dataset`.
      groups, split, gap, stimulus: how examples are parted, see
        `neurofm.eval.split_file.How`; the gap in seconds.
      around: of events in EEG, MEG and intracranial recordings, seconds before and
        after the onset, such as (-0.1, 0.8), that are read; by default the events
        themselves.
      probe: `best`, the better of ridge and neighbours (`neurofm.eval.probe`); or
        `logistic`, `ridge` or `knn` as layer sweeps are published
        (`neurofm.eval.nested`).
      label_counts: how many training labels a class (of numbers, in all) to score with
        beside all of them, so many `draws` each.
      best_electrodes: of a model that reads one electrode at a time: how many are
        averaged, each probed alone (`neurofm.eval.by_electrode`); by default one probe
        has the vectors of all.
      labels, pattern, subdirs: of a folder of sounds, see `neurofm prepare`.
    """

    target: str | None = None
    groups: str | None = None
    split: str | None = None
    gap: float | None = None
    stimulus: str | None = None
    around: tuple[float, float] | None = None
    probe: Literal["best", "logistic", "ridge", "knn"] = "best"
    label_counts: tuple[Annotated[int, Field(ge=2)], ...] = ()
    draws: PositiveInt = 3
    best_electrodes: PositiveInt | None = None
    labels: Path | None = None
    pattern: str | None = None
    subdirs: str | None = None


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Scores of models or stored embeddings by probes; see `neurofm.evaluate`.

    Args:
      given: models or folders of embeddings; several are seeds of one system.
      data: a prepared dataset, or a folder of sounds (prepared into OUT/records).

    Returns:
      data, left_out and what `neurofm.eval.scores.compare` gives.

    Raises:
      NeuroFMError: what was given cannot be scored, and why.
    """
    if data is None:
        raise NeuroFMError(
            "the suite probe needs what is to be predicted: name it as --data"
        )
    entrants = [entrant(path) for path in given]
    if any(e.system != entrants[0].system for e in entrants):
        raise NeuroFMError(
            "the models given are not seeds of one system (their tasks differ): "
            "evaluate each alone, and compare them with `neurofm report`"
        )
    dataset = _dataset(data, out, entrants[0].contract, settings)
    around = settings.around
    examples = exampling.from_dataset(
        dataset,
        settings.target,
        settings.groups,
        settings.split,
        around,
        settings.gap,
        settings.stimulus,
    )
    if examples.span is not None and any(e.pooled for e in entrants):
        raise NeuroFMError(
            "the embeddings given are pooled over recordings, but the target marks "
            "intervals: embed again with --pool none"
        )
    brain = dataset.info.kind in BRAIN
    if around is not None and (not brain or examples.span is None):
        raise NeuroFMError(
            "--around cuts events out of EEG, MEG and intracranial recordings, and the "
            "target given is of "
            f"{'whole recordings' if examples.span is None else dataset.info.kind}: "
            "leave it out"
        )
    live = all(e.untrained is not None for e in entrants)
    if electrodes.apart(entrants[0].contract):
        electrodes.check_alike(dataset, examples.row.tolist())
    if settings.best_electrodes is not None:
        _refuse_electrodes(settings, entrants[0].contract, dataset, examples)
    if brain and examples.span is not None and live:
        dataset, examples = pieces.cut(dataset, examples, around)
    found, each = score_probe(entrants, dataset, examples, {}, settings)
    out.mkdir(parents=True, exist_ok=True)
    by_example.write(out / by_example.NAME, each)
    files.write_json(out / split_file.NAME, examples.split)
    if "electrodes" in found:
        picture = out / "figures" / "electrodes.png"
        electrode_scores.draw(found["electrodes"], found["metric"], picture)
    return {
        "split": settings.split,
        "split_sha256": examples.split["sha256"],
        "data": {"path": str(dataset.path), "hash": dataset.hash},
        "left_out": examples.left_out,
        **found,
    }


def score_probe(
    entrants: Sequence[Entrant],
    dataset: Recordings,
    examples: Examples,
    more: Mapping[str, Embed] | None = None,
    settings: Settings | None = None,
) -> tuple[dict[str, Any], pa.Table]:
    """Scores of the probe suite, see `neurofm.evaluate`, and those of every example.

    Args:
      entrants: the seeds of `model`.
      dataset: what is read.
      examples: what is scored.
      more: name -> further networks to score beside, such as `supervised`.
      settings: its fields `probe`, `label_counts`, `draws` and `best_electrodes`; with
        the last, `electrodes` of the scores has the rows of `by_electrode.probe_best`.
    """
    settings, names = settings or Settings(), ()
    if best := settings.best_electrodes:
        names = electrodes.names_of(dataset, int(examples.row[0]))
    fresh = [e.untrained for e in entrants if e.untrained is not None]
    networks = {"model": [e.embed for e in entrants], "untrained": fresh}
    networks |= {name: [embed] for name, embed in (more or {}).items()}
    systems: dict[str, list[Candidates]] = {}
    pools = _pools(dataset)
    if names:
        pools = by_electrode.pools(pools, names)
    for name, seeds in networks.items():
        for embed in seeds:
            _log.info("reading %d recordings: %s", len(set(examples.row)), name)
            made = vectors(embed, pools, dataset, examples)
            systems.setdefault(name, []).append(made)
    baselines = _baselines(dataset, examples, names)
    _log.info("probing %d examples in %d folds", len(examples.row), len(examples.folds))
    fit = probe.fit
    if settings.probe != "best":
        fit = partial(nested.fit, settings.probe)
    if best:
        probed, rows = by_electrode.probe_best(
            systems, baselines, examples, names, best, fit
        )
    else:
        probed, rows = probe_all(systems, baselines, examples, fit), []
    result = scored(probed, examples, PAIRS)
    if rows:
        result["electrodes"] = rows
    if counts := settings.label_counts:
        few = curves(systems, baselines, examples, counts, settings.draws, fit)
        result["over_labels"] = few
    if n_seen := _n_seen(entrants, dataset, examples):
        result["scores"]["model"] |= {"transductive": True, "n_transductive": n_seen}
        _log.warning("transductive: pretraining saw %d of the test items", n_seen)
    return result, of_each(probed, examples)


def _refuse_electrodes(
    settings: Settings, contract: InputContract, dataset: Dataset, examples: Examples
) -> None:
    """Raises a NeuroFMError where single electrodes cannot be probed as asked."""
    if not electrodes.apart(contract):
        raise NeuroFMError(
            "--best-electrodes is of models that read one electrode at a time, as "
            "BrainBERT does: leave it out"
        )
    if settings.label_counts:
        raise NeuroFMError(
            "--label-counts scores all electrodes together: leave it out, or "
            "--best-electrodes"
        )
    n = len(electrodes.names_of(dataset, int(examples.row[0])))
    if (best := settings.best_electrodes or 0) > n:
        raise NeuroFMError(
            f"--best-electrodes is {best}, but the recordings have {n}: give so many "
            "or fewer"
        )


def _pools(dataset: Recordings) -> Callable[[str], Mapping[str, Pool]]:
    """What is made of a layer: its tokens in order too, where all pieces are alike."""
    if isinstance(dataset, Pieces):
        lengths = dataset.items["n_samples"].unique()
        layouts = dataset.items["layout"].unique()
        if len(lengths) == 1 and len(layouts) == 1:
            return piece_pools
    return network_pools


def _baselines(
    dataset: Recordings, examples: Examples, names: Sequence[str]
) -> Candidates:
    """Log-mel features of sound, band power of EEG, MEG and intracranial recordings,
    connectivity and spectra of fMRI; of each electrode where they are named.
    """
    if names:
        own = by_electrode.features(BAND_POWER, names)
        return of_examples(own, dataset, examples)
    if dataset.info.kind == "fmri":
        return connectome_candidates(dataset, examples)
    if dataset.info.kind in BRAIN:
        return band_power_candidates(dataset, examples)
    return log_mel_candidates(dataset, examples)


def score_model(embed: Embed, dataset: Dataset, examples: Examples) -> dict[str, Any]:
    """The score of one network alone: its entry in `scores`, see `neurofm.evaluate`."""
    systems = {"model": [vectors(embed, network_pools, dataset, examples)]}
    return compare(systems, {}, examples)["scores"]["model"]


def _n_seen(
    entrants: Sequence[Entrant], dataset: Recordings, examples: Examples
) -> int:
    """Test items whose recording pretraining saw."""
    seen = frozenset().union(*(e.seen for e in entrants))
    digests = np.array(dataset.items["sha256"].to_pylist(), object)
    tested = np.concatenate([fold.test for fold in examples.folds])
    return sum(digest in seen for digest in digests[examples.row[tested]])


def _dataset(
    path: stores.Place, out: Path, contract: InputContract, settings: Settings
) -> Dataset:
    told = {n: getattr(settings, n) for n in ("labels", "pattern", "subdirs")}
    if path.is_dir() and not (path / "dataset.json").is_file():
        from data_pipelines.audio import prepare

        _log.info("preparing the sounds of %s into %s", path, out / "records")
        channels = "first" if contract.n_chans == 1 else "all"
        prepare(path, out / "records", sfreq=contract.sfreq, channels=channels, **told)
        return open_dataset(out / "records")
    if given := [name for name, value in told.items() if value is not None]:
        raise NeuroFMError(
            f"{path} is not a folder of sounds, so {', '.join(given)} cannot be given "
            "here: labels of a dataset are given to `neurofm prepare`"
        )
    return open_dataset(path)
