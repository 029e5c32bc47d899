"""What the probe suite scores: models or stored embeddings, ready to read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm import config, stores
from neurofm.contract import InputContract
from neurofm.data import ieeg, parcels
from neurofm.data.embeddings import Embeddings, open_embeddings
from neurofm.data.meeg import check_frame
from neurofm.data.records import Dataset
from neurofm.embedding import electrodes, encode, inputs
from neurofm.embedding.difference import Difference, announce, compare, refuse
from neurofm.embedding.parcels import of_record
from neurofm.embedding.recorded import Recorded, arrays
from neurofm.errors import NeuroFMError
from neurofm.eval.features import Embed, Tokens, sounds
from neurofm.eval.pieces import Recordings
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load
from neurofm.run.workdir import seen_by
from neurofm.task import Tree

BRAIN = ("meeg", "ieeg")  # kinds whose events are cut out and read alone


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
    if contract.kind == "fmri":
        assert isinstance(dataset, Dataset)  # pieces are of other kinds
        parcels.check(dataset, model.task.batch_spec("features"))
        for row in rows:
            yield row, of_record(dataset, row, contract), []
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
