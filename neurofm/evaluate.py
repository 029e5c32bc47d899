"""`neurofm evaluate`: how much frozen embeddings tell about labels, and beside what.

The probe suite puts the same probes (`neurofm.eval.probe`) on every layer of a model,
on the same network untrained, and on log-mel features or band power, chooses on
validation rows and scores on test rows. The suite `encoding` predicts fMRI
(`neurofm.encoding.suite`).
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm import config, files, stores
from neurofm.contract import InputContract
from neurofm.data import ieeg
from neurofm.data.embeddings import Embeddings, open_embeddings
from neurofm.data.meeg import check_frame
from neurofm.data.records import Dataset, open_dataset
from neurofm.embedding import electrodes, encode, inputs
from neurofm.embedding.difference import Difference, announce, compare, refuse
from neurofm.embedding.recorded import Recorded, arrays
from neurofm.encoding import suite as encoding
from neurofm.errors import NeuroFMError
from neurofm.eval import examples as exampling
from neurofm.eval import pieces
from neurofm.eval.baselines import log_mel_candidates
from neurofm.eval.examples import Examples
from neurofm.eval.features import (
    Candidates,
    Embed,
    Pool,
    Tokens,
    network_pools,
    piece_pools,
    sounds,
    vectors,
)
from neurofm.eval.pieces import Pieces, Recordings
from neurofm.eval.rhythms import band_power_candidates
from neurofm.eval.scores import compare as compare_systems
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load
from neurofm.report import page as report
from neurofm.run.workdir import seen_by
from neurofm.suites import declared
from neurofm.task import Tree

_log = logging.getLogger(__name__)

BRAIN = ("meeg", "ieeg")  # kinds whose events are cut out and read alone
PAIRS = (("model", "untrained"), ("model", "baseline"), ("model", "supervised"))


@dataclass(frozen=True)
class Entrant:
    """What is scored as one seed of `model`.

    Attributes:
      embed: reads recordings.
      untrained: the same network freshly initialised, or None where it is not at hand.
      contract: what its input must be.
      system: what all seeds of one evaluation share.
      seen: sha256 of the recordings that it was pretrained on, as far as known.
      pooled: it gives one token a recording, so nothing inside a recording.
    """

    embed: Embed
    untrained: Embed | None
    contract: InputContract
    system: Any
    seen: frozenset[str] = frozenset()
    pooled: bool = False


def evaluate(
    given: Sequence[str | os.PathLike],
    *,
    out: str | os.PathLike,
    data: str | os.PathLike | None = None,
    suite: str | os.PathLike = "probe",
    target: str | None = None,
    groups: str | None = None,
    split: str | None = None,
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    around: tuple[float, float] | None = None,
    delays: Sequence[float] | None = None,
    penalty: str | None = None,
    permutations: int | None = None,
    floor: float | None = None,
    subjects: Sequence[str] | None = None,
    atlas: str | os.PathLike | None = None,
    submit: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Score models or stored embeddings; writes OUT/scores.json and OUT/report.html.

    Args:
      given: models or embedding folders; several are seeds of one system, averaged.
      out: folder of the results.
      data: a prepared dataset, or a folder of sounds (prepared into OUT/records); of
        other suites what `docs/suites.md` says.
      suite: `probe`; `encoding`, where `given` are features or embeddings, set side by
        side, and `data` is fMRI; another suite, or a file that declares one: see
        `neurofm.suites.declared`.
      target, groups, split: see `neurofm.eval.examples.from_dataset`.
      around: of events in EEG, MEG and intracranial recordings, seconds before and
        after the onset, such as (-0.1, 0.8), that are read; by default the events
        themselves.
      labels, pattern, subdirs: of a folder of sounds, see `neurofm prepare`.
      delays, penalty, permutations, floor, subjects, atlas, submit: of the suite
        `encoding`, see `neurofm.encoding.suite.evaluate`.

    Returns:
      What is written: suite, data, target, groups, split, metric, over, left_out,
      differences, and `scores`: `model`, `untrained`, `baseline`, each baseline by its
      name and `chance` -> mean, std, n and more, see `neurofm.eval.scores.compare`.

    Raises:
      NeuroFMError: what was given cannot be scored, and why.
    """
    chosen = declared.read(suite)
    if not given:
        raise NeuroFMError("nothing was given to score: name a model or embeddings")
    out, places = Path(out), [stores.place(path) for path in given]
    told = {"labels": labels, "pattern": pattern, "subdirs": subdirs}
    of_encoding = {"delays": delays, "penalty": penalty, "floor": floor}
    of_encoding |= {"permutations": permutations, "subjects": subjects}
    of_encoding |= {"atlas": atlas, "submit": submit}
    of_events = {"split": split, "around": around}
    if chosen.kind in declared.KINDS:
        _refuse_given({**told, **of_events, **of_encoding}, chosen.name)
        chosen = declared.with_options(chosen, target=target, groups=groups)
        asked = {"suite": chosen.name, "target": target, "groups": groups}
        asked |= {"kind": chosen.kind, "settings": chosen.settings}
        at = None if data is None else stores.place(data)
        found = declared.evaluate(chosen, places, at, out)
        return _finish({**asked, "given": [str(path) for path in given], **found}, out)
    if data is None:
        raise NeuroFMError(
            f"the suite {chosen.name} needs what is to be predicted: name it as --data"
        )
    if chosen.kind == "encoding":
        of_probe = {"target": target, "groups": groups, **of_events}
        _refuse_given({**of_probe, **told}, chosen.name)
        own = declared.with_options(chosen, **of_encoding).settings
        found = encoding.evaluate(places, stores.place(data), out, **own)
        asked = {"suite": chosen.name, "given": [str(path) for path in given]}
        return _finish({**asked, **found}, out)
    _refuse_given(of_encoding, chosen.name)
    own = chosen.settings
    target, groups = target or own.get("target"), groups or own.get("groups")
    split, around = split or own.get("split"), around or own.get("around")
    asked = {"suite": chosen.name, "target": target, "groups": groups, "split": split}
    entrants = [entrant(path) for path in places]
    if any(e.system != entrants[0].system for e in entrants):
        raise NeuroFMError(
            "the models given are not seeds of one system (their tasks differ): "
            "evaluate each alone, and compare them with `neurofm report`"
        )
    dataset = _dataset(stores.place(data), out, entrants[0].contract, told)
    examples = exampling.from_dataset(dataset, target, groups, split)
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
    if brain and examples.span is not None and live:
        dataset, examples = pieces.cut(dataset, examples, around)
    result = {
        **asked,
        "given": [str(path) for path in given],
        "data": {"path": str(dataset.path), "hash": dataset.hash},
        "left_out": examples.left_out,
        **score_probe(entrants, dataset, examples),
    }
    return _finish(result, out)


def _finish(result: dict[str, Any], out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "scores.json", result)
    report.render([out], out / "report.html")
    return result


def _refuse_given(options: Mapping[str, Any], suite: str) -> None:
    if wrong := [name for name, value in options.items() if value is not None]:
        raise NeuroFMError(f"the suite {suite} has no --{wrong[0]}: leave it out")


def score_probe(
    entrants: Sequence[Entrant],
    dataset: Recordings,
    examples: Examples,
    more: Mapping[str, Embed] | None = None,
) -> dict[str, Any]:
    """Scores of the probe suite, see `evaluate`.

    Args:
      entrants: the seeds of `model`.
      dataset: what is read.
      examples: what is scored.
      more: name -> further networks to score beside, such as `supervised`.
    """
    fresh = [e.untrained for e in entrants if e.untrained is not None]
    networks = {"model": [e.embed for e in entrants], "untrained": fresh}
    networks |= {name: [embed] for name, embed in (more or {}).items()}
    systems: dict[str, list[Candidates]] = {}
    pools = _pools(dataset)
    for name, seeds in networks.items():
        for embed in seeds:
            _log.info("reading %d recordings: %s", len(set(examples.row)), name)
            made = vectors(embed, pools, dataset, examples)
            systems.setdefault(name, []).append(made)
    baselines = _baselines(dataset, examples)
    _log.info("probing %d examples in %d folds", len(examples.row), len(examples.folds))
    result = compare_systems(systems, baselines, examples, PAIRS)
    if n_seen := _n_seen(entrants, dataset, examples):
        result["scores"]["model"] |= {"transductive": True, "n_transductive": n_seen}
        _log.warning("transductive: pretraining saw %d of the test items", n_seen)
    return result


def _pools(dataset: Recordings) -> Callable[[str], Mapping[str, Pool]]:
    """What is made of a layer: its tokens in order too, where all pieces are alike."""
    if isinstance(dataset, Pieces):
        lengths = dataset.items["n_samples"].unique()
        layouts = dataset.items["layout"].unique()
        if len(lengths) == 1 and len(layouts) == 1:
            return piece_pools
    return network_pools


def _baselines(dataset: Recordings, examples: Examples) -> Candidates:
    """Log-mel features of sound, band power of EEG, MEG and intracranial recordings."""
    if dataset.info.kind in BRAIN:
        return band_power_candidates(dataset, examples)
    return log_mel_candidates(dataset, examples)


def score_model(embed: Embed, dataset: Dataset, examples: Examples) -> dict[str, Any]:
    """The score of one network alone: its entry in `scores`, see `evaluate`."""
    systems = {"model": [vectors(embed, network_pools, dataset, examples)]}
    return compare_systems(systems, {}, examples)["scores"]["model"]


def _n_seen(
    entrants: Sequence[Entrant], dataset: Recordings, examples: Examples
) -> int:
    """Test items whose recording pretraining saw."""
    seen = frozenset().union(*(e.seen for e in entrants))
    digests = np.array(dataset.items["sha256"].to_pylist(), object)
    tested = np.concatenate([fold.test for fold in examples.folds])
    return sum(digest in seen for digest in digests[examples.row[tested]])


def _dataset(
    path: stores.Place, out: Path, contract: InputContract, told: dict[str, Any]
) -> Dataset:
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


def entrant(path: stores.Place) -> Entrant:
    """A model or a folder of embeddings, made ready to read recordings."""
    if (path / "embeddings.json").is_file():
        return _stored(open_embeddings(path))
    model = load(path)
    return Entrant(
        embed=network(model),
        # Made when it is read: a mistake in the data is found before.
        untrained=lambda dataset, rows: network(
            untrained(model, first_batch(model, dataset, rows))
        )(dataset, rows),
        contract=model.contract,
        system=config.to_json(model.task),
        seen=seen_by(path),
    )


def first_batch(
    model: Model, dataset: Recordings, rows: Sequence[int], n: int = 64
) -> Tree | None:
    """Windows from the start of some recordings, where codebooks start from data."""
    kind = model.contract.kind
    if kind not in BRAIN or electrodes.apart(model.contract):
        return None
    size = model.contract.window_samples
    picked = [rows[i] for i in np.linspace(0, len(rows) - 1, n).round().astype(int)]
    found = [each for _, each, _ in _recorded(model, dataset, picked)]
    widest = max(each.places for each in found)
    alike = [each.cut(0, size) for each in found if each.places == widest]
    return arrays(alike, len(alike), size)


def network(model: Model) -> Embed:
    """All layers of a model; recordings are brought to its input contract."""

    def embed(dataset: Recordings, rows: Sequence[int]) -> Iterator[tuple[int, Tokens]]:
        converted: list[tuple[str, list[Difference]]] = []

        def waves() -> Iterator[tuple[int, Recorded]]:
            for row, recorded, found in _recorded(model, dataset, rows):
                converted.append((f"row {row}", found))
                yield row, recorded

        for row, reading in encode.embed_waves(model, waves(), layers="all"):
            yield row, Tokens(reading.values, reading.times_s)
        announce(converted)

    return embed


def _recorded(
    model: Model, dataset: Recordings, rows: Sequence[int]
) -> Iterator[tuple[int, Recorded, list[Difference]]]:
    """Recordings of a dataset as the model takes them, and what was converted."""
    contract, info = model.contract, dataset.info
    if contract.kind == "meeg":
        refuse(compare(contract, {n: getattr(info, n) for n in ("kind", "sfreq")}))
        check_frame(dataset.path, dataset.layouts, contract)
    if contract.kind == "ieeg":
        yield from _of_electrodes(model, dataset, rows)
        return
    for row, samples in sounds(dataset, rows):
        if contract.kind == "meeg":
            yield row, Recorded(samples, dataset.sensors(row)), []
        else:
            wave, found = inputs.conform(contract, samples, info.sfreq)
            yield row, Recorded(wave), found


def _of_electrodes(
    model: Model, dataset: Recordings, rows: Sequence[int]
) -> Iterator[tuple[int, Recorded, list[Difference]]]:
    refuse(electrodes.differences(dataset, model.contract))
    subject, names = dataset.items["subject"].to_pylist(), model.subjects
    told = [subject[row] for row in rows]
    whose = ieeg.subjects(told, names, dataset.path) if names else [0] * len(rows)
    for row, number in zip(rows, whose, strict=True):
        yield row, electrodes.of_record(dataset, row, model.contract, int(number)), []


def _stored(stored: Embeddings) -> Entrant:
    request = stored.info["request"]
    if request["events"]:
        raise NeuroFMError(
            f"{stored.path} holds embeddings of intervals without their recordings: "
            "embed again without --events, the intervals are found here"
        )
    place = {name: i for i, name in enumerate(stored.index["item"].to_pylist())}

    def embed(dataset: Recordings, rows: Sequence[int]) -> Iterator[tuple[int, Tokens]]:
        names = dataset.items["item"].to_pylist()
        if missing := [names[row] for row in rows if names[row] not in place]:
            raise NeuroFMError(
                f"{stored.path} lacks {len(missing)} of {len(rows)} recordings of the "
                f"data (first: {missing[0]}): embed the same data"
            )
        for row in rows:
            at = place[names[row]]
            layers = stored.index["layers"][at].as_py()
            values = {layer: stored.read(at, layer) for layer in layers}
            yield row, Tokens(values, stored.times(at))

    return Entrant(
        embed=embed,
        untrained=None,
        contract=InputContract.from_json(stored.info["contract"]),
        system=request["task"],
        seen=seen_by(stores.place(stored.info["model"].get("source", ""))),
        pooled=request["pool"] != "none",
    )
