"""Sensors of simulated EEG and MEG rebuilt from others, by a tokenizer and classically.

    python benchmarks/brain_sensors.py --out DIR [--seed N] [--steps 1500] [a.b=c ...]

trains a small BrainTokenizer on people in caps of 19 and 32 electrodes, hides a quarter
of the sensors of new people in caps of 19 and 64 and in a helmet, and rebuilds them: by
the tokenizer (EEG alone); by spherical splines (EEG) or field mapping (MEG), as MNE has
them; and by the Wiener filter of someone who knows each person's covariances. R² is
over all hidden sensors and samples of a recording; intervals are over people. What is
in DIR is not made again, and a training that was stopped goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from neurofm import config, files
from neurofm.embedding import rebuild
from neurofm.embedding.recorded import Recorded
from neurofm.eval.stats import interval, paired
from neurofm.model import Model, load
from neurofm.quickstart import events
from neurofm.signals.meeg import EEG, KINDS
from neurofm.simulate import meeg, oracle
from neurofm.simulate.heads import Subject
from neurofm.simulate.layouts import Name
from neurofm.train import pretrain

PEOPLE: dict[Name, int] = {"eeg19": 24, "eeg64": 24, "meg306": 8}  # new ones in each
PER_SUBJECT, HIDDEN = 12, 0.25
SNR_DB = events.SNR_DB["labelled"]
SIZES = (
    "task.target=waveform",
    "task.start=spread",
    "task.source_keys=true",
    "task.n_quantizers=4",
    "task.n_codes=256",
    "data.buckets=1",
    "train.checkpoint_every=500",
)


def trained(out: Path, seed: int, steps: int, overrides: list[str]) -> Model:
    events.generate(out, seed, events.CAPS, {})
    settings = (f"data.path={out / 'stream'}", f"seed={seed}", f"train.steps={steps}")
    exp = config.load("brainomni/quickstart_tokenizer", (*settings, *SIZES, *overrides))
    outcome = pretrain(exp, out / "tokenizer")
    if outcome.status != "done":
        raise SystemExit(outcome.sentence)
    return load(out / "tokenizer")


def scores(model: Model, seed: int, name: Name) -> dict[str, list[list[float]]]:
    """R² of new people: "layout kind system" -> of each person, of each recording."""
    design = meeg.Design(layouts=(name,), per_subject=PER_SUBJECT, snr_db=SNR_DB)
    found: dict[str, list[list[float]]] = {}
    for number in range(PEOPLE[name]):
        first = number * PER_SUBJECT
        made = [
            meeg.record(seed, "test", i, design)
            for i in range(first, first + PER_SUBJECT)
        ]
        who = made[0].subject
        shown = np.ones(len(who.layout.kind), bool)
        rng = np.random.default_rng((seed, number))
        shown[rng.permutation(len(shown))[: round(HIDDEN * len(shown))]] = False
        x = np.stack([one.samples.astype(float) for one in made])  # [B, C, N]
        if (who.layout.kind == EEG).all():  # the mean of all tells that of those hidden
            x = x - x[:, shown].mean(1, keepdims=True)
        truth = against_shown(x, x[:, ~shown], who, shown)
        told = {
            "wiener": against_shown(
                x, oracle.rebuilt(x, who, shown, SNR_DB), who, shown
            ),
            "classic": against_shown(x, classic(x, who, shown), who, shown),
        }
        if (who.layout.kind == EEG).all():
            told["tokenizer"] = by_tokenizer(model, x, who, shown)
        kind = who.layout.kind[~shown]
        for k in np.unique(kind):
            for system, hidden in told.items():
                error = np.square(truth - hidden)[:, kind == k].sum((1, 2))
                size = np.square(truth[:, kind == k]).sum((1, 2))
                own = found.setdefault(f"{name} {KINDS[k]} {system}", [])
                own.append((1 - error / size).tolist())
    return found


def against_shown(
    x: Float[np.ndarray, "B C N"],
    hidden: Float[np.ndarray, "B H N"],
    who: Subject,
    shown: Bool[np.ndarray, " C"],
) -> Float[np.ndarray, "B H N"]:
    """Minus the mean of the shown sensors of the type and that of time.

    This is all that a tokenizer tells of a window.
    """
    kind, out = who.layout.kind, hidden.copy()
    for k in np.unique(kind):
        out[:, kind[~shown] == k] -= x[:, shown & (kind == k)].mean(1, keepdims=True)
    return out - out.mean(2, keepdims=True)


def by_tokenizer(
    model: Model,
    x: Float[np.ndarray, "B C N"],
    who: Subject,
    shown: Bool[np.ndarray, " C"],
) -> Float[np.ndarray, "B H N"]:
    """As `neurofm reconstruct` rebuilds recordings laid end to end."""
    sensors = events.sensors(who)
    laid = np.concatenate(list(x), axis=1).astype(np.float32)
    names = [name for name, seen in zip(sensors.names, shown, strict=True) if not seen]
    rebuilt = rebuild.rebuild(model, Recorded(laid, sensors), frozenset(names))
    parts = np.split(rebuilt.samples[~shown].astype(float), len(x), axis=1)
    return np.stack(parts)


def classic(
    x: Float[np.ndarray, "B C N"], who: Subject, shown: Bool[np.ndarray, " C"]
) -> Float[np.ndarray, "B H N"]:
    """Spherical splines of electrodes, field mapping of coils (MNE, defaults)."""
    import mne

    layout = who.layout
    kinds: Any = [KINDS[k] for k in layout.kind]
    centre: Any = (0.0, 0.0, 0.0)  # MNE's own hints tell of names alone
    info = mne.create_info(list(layout.names), meeg.SFREQ, kinds, verbose="error")
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", np.eye(4))
    for channel, place, frame, coil in zip(
        info["chs"], who.place, layout.frames, layout.coil, strict=True
    ):
        channel["loc"] = np.concatenate([place, frame.ravel()])
        if coil != "EEG":
            channel["coil_type"] = getattr(mne.io.constants.FIFF, f"FIFFV_COIL_{coil}")
    laid = np.concatenate(list(x * shown[:, None]), axis=1)
    raw = mne.io.RawArray(laid, info, verbose="error")
    raw.info["bads"] = [
        name for name, seen in zip(layout.names, shown, strict=True) if not seen
    ]
    raw.interpolate_bads(reset_bads=False, origin=centre, verbose="error")
    parts = np.split(raw.get_data()[~shown], len(x), axis=1)
    return np.stack(parts)


def lines(found: dict[str, list[list[float]]]) -> list[str]:
    """A line for each layout, type and system, and how far the tokenizer is behind."""
    out = []
    for key, people in found.items():
        points = np.concatenate([np.array(r2) for r2 in people])
        who = np.repeat(np.arange(len(people)), [len(r2) for r2 in people])
        one = np.ones(len(points))
        told = interval(points, one, who)
        out.append(f"{key:24s} {told.value:.3f} [{told.low:.3f}, {told.high:.3f}]")
        if key.endswith("tokenizer"):
            other = np.concatenate(found[key.replace("tokenizer", "classic")])
            gap = paired(points, other, one, who)
            out.append(
                f"{'  tokenizer - classic':24s} {gap.value:+.3f} "
                f"[{gap.low:+.3f}, {gap.high:+.3f}]"
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    model = trained(asked.out, asked.seed, asked.steps, asked.overrides)
    found = {}
    for name in PEOPLE:
        kept = asked.out / f"{name}.json"
        if not kept.is_file():
            files.write_json(kept, scores(model, asked.seed, name))
        found |= json.loads(kept.read_text())
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
