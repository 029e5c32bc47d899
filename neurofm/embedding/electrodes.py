"""Intracranial recordings that a user gives, as a model takes them.

A model of one electrode reads every channel by itself, and what it reads of them lies
side by side: (T, c x D). A model of a subject's channels takes them all at once.

Axes: C channels of the model, c channels of a recording, N samples, T tokens, D width.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from neurofm.contract import InputContract
from neurofm.data.records import Dataset
from neurofm.embedding.difference import Difference, compare, refuse
from neurofm.embedding.recorded import Group, Recorded
from neurofm.errors import NeuroFMError
from neurofm.eval.pieces import Recordings


def apart(contract: InputContract) -> bool:
    """Whether the model reads one electrode at a time."""
    return contract.kind == "ieeg" and contract.n_chans == 1


def differences(dataset: Recordings, contract: InputContract) -> list[Difference]:
    """How a store differs from what the model takes; too many channels count."""
    info = dataset.info
    given: dict[str, Any] = {n: getattr(info, n) for n in ("kind", "unit", "sfreq")}
    if (reference := info.processing.get("reference")) is not None:
        given["reference"] = reference
    if info.kind == "ieeg" and (most := int(dataset.n_chans.max())) > contract.n_chans:
        given |= {} if apart(contract) else {"n_chans": most}
    return compare(contract, given)


def of_record(
    dataset: Recordings, row: int, contract: InputContract, subject: int = 0
) -> Recorded:
    """A recording of a store that has no `differences`."""
    samples = dataset.read(row, 0, dataset.items["n_samples"][row].as_py())
    return placed(samples, contract, subject, names_of(dataset, row))


def names_of(dataset: Recordings, row: int) -> tuple[str, ...]:
    """Names of the channels of a recording."""
    return dataset.info.ch_names or tuple(dataset.sensors(row).names)


def placed(
    samples: Float32[np.ndarray, "c N"],
    contract: InputContract,
    subject: int,
    names: Sequence[str] = (),
) -> Recorded:
    """In the model's places, zeros where no channel is; unless it reads them apart."""
    n = len(samples) if apart(contract) else contract.n_chans
    x = np.zeros((n, samples.shape[1]), np.float32)
    x[: len(samples)] = samples
    there = np.arange(n) < len(samples)
    return Recorded(x, group=Group(there, subject, tuple(names)))


def of_array(
    x: Any,
    sfreq: float | None,
    contract: InputContract,
    subject: int = 0,
    names: Sequence[str] = (),
) -> tuple[Recorded, list[Difference]]:
    """Channels (c, N) in V, or one (N,), in the order that the model was trained on.

    Raises:
      NeuroFMError: no such array, another rate, too many channels, or samples that are
        not finite.
    """
    if sfreq is None:
        raise NeuroFMError(
            "an array of an intracranial recording was given without sfreq: give its "
            "sampling rate in Hz"
        )
    x = np.asarray(x)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or x.dtype.kind not in "fiu" or not x.size:
        raise NeuroFMError(
            f"an array of shape {x.shape} and type {x.dtype} was given: give numbers, "
            "(channels, samples), several as a list"
        )
    given: dict[str, Any] = {"sfreq": float(sfreq)}
    if not apart(contract) and len(x) > contract.n_chans:
        given["n_chans"] = len(x)
    refuse(compare(contract, given))
    if n_bad := int((~np.isfinite(x)).any(1).sum()):
        raise NeuroFMError(
            f"{n_bad} of {len(x)} channels have samples that are not finite: repair or "
            "leave out these channels"
        )
    how = f"taken as V, and as already referenced: {contract.reference}"
    note = [Difference("note", None, None, how)]
    return placed(x.astype(np.float32), contract, subject, names), note


def number(names: Sequence[str], subject: str | None) -> int:
    """The number of a subject, of those that a model knows.

    Raises:
      NeuroFMError: it does not know that one, or knows several and none was named.
    """
    if subject is None and len(names) < 2:
        return 0
    if subject not in names:
        given = "no subject was given" if subject is None else f"subject is {subject!r}"
        known = f"knows {', '.join(names)}" if names else "knows no subjects apart"
        remedy = "give one of these as subject" if names else "leave subject out"
        raise NeuroFMError(f"{given} and this model {known}: {remedy}")
    return names.index(subject)


def one_by_one(
    recordings: Iterable[tuple[Any, Recorded]],
) -> Iterator[tuple[tuple[Any, int], Recorded]]:
    """Each channel as a recording, named after its own and by how many follow it."""
    for name, whole in recordings:
        for channel in range(len(whole.samples)):
            yield (name, len(whole.samples) - channel - 1), whole.channel(channel)


def check_alike(dataset: Dataset, rows: Iterable[int]) -> None:
    """Recordings have the same electrodes, so that vectors side by side are alike.

    Raises:
      NeuroFMError: they have not.
    """
    found = {names_of(dataset, row) for row in rows}
    if len(found) > 1:
        raise NeuroFMError(
            f"the recordings of {dataset.path} have {len(found)} different sets of "
            "electrodes, and this model reads each electrode by itself, side by side: "
            "prepare a dataset a subject, and evaluate each"
        )
