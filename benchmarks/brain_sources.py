"""Latent sources of a tokenizer on simulated EEG, beside minimum norm.

    python benchmarks/brain_sources.py --out DIR [--seed N] NAME=TOKENIZER ...

A TOKENIZER is a workdir: the `tokenizer` of a quickstart or of `brain_sensors.py`. From
its latent sources ridge regression, fitted on people in caps of 19 and 32 electrodes,
tells on new people in a cap of 64:

- `tangential`, `radial`: the moment of a dipole that is at one place of that direction
  in everybody, sample by sample;
- `power`, `pitch`: how strong the chirp of a dipole anywhere is at every token, and
  that times how high it is, from -1 to 1.

The score is the correlation with the truth over a recording; intervals are over people.
Beside it stands minimum norm: the same ridge on all moments of a grid from 5 to 30 Hz
(their log-spectra for `power` and `pitch`), the moment at the place itself, which it is
then told (`known place`), and each network untrained.
"""

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from neurofm import files
from neurofm.data import meeg as batches
from neurofm.eval.stats import interval
from neurofm.model import load
from neurofm.quickstart import events
from neurofm.signals import bands
from neurofm.simulate import inverse, meeg
from neurofm.simulate.heads import Part
from neurofm.task import Task, Tree

PEOPLE: dict[Part, int] = {"train": 36, "valid": 12, "test": 24}
PER_SUBJECT, SNR_DB, N_TOKENS = 12, (-5.0, 0.0), 24
PLACES = {  # in radii of the head, and direction: along the scalp, and towards it
    "tangential": (np.array([0.4, 0.2, 0.5]), np.array([0.0, 0.93, -0.37])),
    "radial": (np.array([-0.35, -0.4, 0.45]), np.array([-0.5, -0.57, 0.65])),
}
PENALTIES = 10.0 ** np.arange(-4, 3)  # a row

Made = list[meeg.Recorded]  # of one person
Features = Callable[[Made], np.ndarray]  # [B, T, F], F features of T times


def simulated(seed: int, part: Part) -> list[Made]:
    """The recordings of each person of a part."""
    caps = events.CAPS.unseen if part == "test" else events.CAPS.known
    design = meeg.Design(layouts=caps, per_subject=PER_SUBJECT, snr_db=SNR_DB)
    return [
        [
            meeg.record(seed, part, n * PER_SUBJECT + i, design)
            for i in range(PER_SUBJECT)
        ]
        for n in range(PEOPLE[part])
    ]


def moved(one: meeg.Recorded, place: str) -> meeg.Recorded:
    """The same recording with its dipole at a place, as loud as it was."""
    who, event = one.subject, one.event
    at, axis = PLACES[place]
    seen = who.measured(who.radius * at[None], axis[None] / np.linalg.norm(axis))
    topography = float(meeg.moments(who, seen, event.snr_db)[0]) * seen[:, 0]
    there = np.outer(topography - event.topography, chirp_of(one))
    return replace(one, samples=(one.samples + there).astype(np.float32))


def chirp_of(one: meeg.Recorded) -> Float[np.ndarray, " N"]:
    return meeg.chirp(one.event.label, one.event.onset_s, one.event.phase)


# ---- what is told, and from what -----------------------------------------------------


def moments(made: Made) -> Float[np.ndarray, "B N"]:
    """The dipoles' moments, in units of their RMS while they last."""
    return np.stack([chirp_of(one) for one in made])


def chirps(made: Made) -> Float[np.ndarray, "B W 2"]:
    """Power of the chirp in each token, and that times its pitch from -1 to 1."""
    centre = (np.arange(N_TOKENS) + 0.5) * meeg.DURATION_S / N_TOKENS
    out = []
    for one in made:
        label, onset = one.event.label, one.event.onset_s
        waves = [meeg.chirp(label, onset, phase) for phase in (0, np.pi / 2)]
        power = np.square(waves).mean(0).reshape(N_TOKENS, -1).mean(1)
        pitch = 2 * np.clip((centre - onset) / meeg.CHIRP_S, 0, 1) - 1
        out.append(np.stack([power, power * (-pitch if label else pitch)], -1))
    return np.stack(out)


def latents(task: Task, variables: Callable[[], Tree]) -> Features:
    """Of all sources of a network, before they are quantised."""
    kept = functools.cache(variables)
    read = jax.jit(lambda v, batch: task.read(v, batch, "sources").values["sources"])
    return lambda made: np.asarray(read(kept(), batch_of(made)))


def batch_of(made: Made) -> Tree:
    """With places for as many sensors as a multiple of 32."""
    sensors = [events.sensors(one.subject) for one in made]
    width = 32 * -(-len(sensors[0]) // 32)
    samples = [one.samples for one in made]
    return {
        **batches.pad(samples, sensors, width, meeg.N_SAMPLES),
        "index": np.arange(len(made), dtype=np.int32),
        "valid": np.ones(len(made), bool),
    }


def on_grid(made: Made) -> Float[np.ndarray, "B N K"]:
    """Moments by minimum norm, from 5 to 30 Hz, over their deviation in a recording."""
    who = made[0].subject
    places = inverse.grid(who.radius)
    back = inverse.minimum_norm(who.measured(*places), who.noise(meeg.SFREQ))
    return in_band(made, back)


def at_place(place: str) -> Features:
    """Minimum norm with one dipole more, which is where the true one is."""
    at, axis = PLACES[place]
    axis = axis / np.linalg.norm(axis)
    own = np.stack([axis, *np.linalg.svd(axis[None])[2][1:]])  # axes of that dipole

    def features(made: Made) -> Float[np.ndarray, "B N 1"]:
        who = made[0].subject
        places, axes = inverse.grid(who.radius)
        places = np.concatenate([places, np.tile(who.radius * at, (3, 1))])
        gain = who.measured(places, np.concatenate([axes, own]))
        back = inverse.minimum_norm(gain, who.noise(meeg.SFREQ))
        return in_band(made, back[-3:-2])

    return features


def in_band(made: Made, back: Float[np.ndarray, "K C"]) -> Float[np.ndarray, "B N K"]:
    hz = meeg.frequencies()
    spectra = np.fft.rfft(np.stack([one.samples.astype(float) for one in made]))
    told = np.fft.irfft(back @ (spectra * ((hz >= 5) & (hz <= 30))), meeg.N_SAMPLES)
    return (told / told.std((1, 2), keepdims=True)).swapaxes(1, 2)


def grid_spectra(made: Made) -> Float[np.ndarray, "B W F"]:
    """Log-spectra of minimum norm's dipoles, minus their means over time."""
    told = on_grid(made).swapaxes(1, 2)  # [B, K, N]
    power = np.exp(bands.log_spectrogram(told, meeg.SFREQ))  # [B, K, frames, hz]
    power = power.reshape(len(made), -1, 3, *power.shape[2:]).sum(2)
    centre = (np.arange(N_TOKENS) + 0.5) * meeg.DURATION_S / N_TOKENS
    nearest = np.round((centre - bands.WINDOW_S / 2) / bands.HOP_S).astype(int)
    out = np.log(power[:, :, np.clip(nearest, 0, power.shape[2] - 1)])
    out = (out - out.mean(2, keepdims=True)).swapaxes(1, 2)
    return out.reshape(len(made), N_TOKENS, -1)


# ---- scores --------------------------------------------------------------------------


def score(
    features: Features,
    target: Callable[[Made], np.ndarray],
    people: dict[Part, list[Made]],
) -> list[list[list[float]]]:
    """Of each person's recordings of `test`, the correlation of each series."""
    x, y = {}, {}
    for part, everyone in people.items():
        x[part] = np.concatenate([features(made) for made in everyone])
        truth = np.concatenate([target(made) for made in everyone])
        # The samples of a token are told at once from what a token has.
        y[part] = truth.reshape(*x[part].shape[:2], -1)
    told = ridge(x, y, target is chirps)
    right = correlation(told, y["test"], target is chirps)
    return right.reshape(len(people["test"]), PER_SUBJECT, -1).tolist()


def ridge(x: dict[Part, np.ndarray], y: dict[Part, np.ndarray], several: bool):
    """What a ridge tells of `test`; the penalty is the best of `valid`."""
    flat = x["train"].reshape(-1, x["train"].shape[-1]).astype(np.float64)
    mean, scale = flat.mean(0), flat.std(0) + 1e-9
    flat = (flat - mean) / scale
    wanted = y["train"].reshape(len(flat), -1)
    level = wanted.mean(0)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    turned = vectors.T @ (flat.T @ (wanted - level) / len(flat))
    best, told = -np.inf, np.zeros(0)
    for penalty in PENALTIES:
        weights = vectors @ (turned / (values + penalty)[:, None])

        def tell(part: Part, weights=weights):
            return ((x[part] - mean) / scale) @ weights + level

        found = correlation(tell("valid"), y["valid"], several).mean()
        if found > best:
            best, told = found, tell("test")
    return told


def correlation(
    told: Float[np.ndarray, "B T O"], truth: Float[np.ndarray, "B T O"], several: bool
) -> Float[np.ndarray, "B S"]:
    """Over a recording, of each output alone or of all as one series."""
    if not several:
        told, truth = (a.reshape(len(a), -1, 1) for a in (told, truth))
    told, truth = (a - a.mean(1, keepdims=True) for a in (told, truth))
    size = np.square(told).sum(1) * np.square(truth).sum(1)
    return (told * truth).sum(1) / np.sqrt(np.maximum(size, 1e-30))


def measured(seed: int, tokenizers: dict[str, str], out: Path) -> dict[str, list]:
    """Correlations by "system what", each kept in a file of its own."""
    systems: dict[str, Features] = {}
    people = {part: simulated(seed, part) for part in PEOPLE}
    for name, workdir in tokenizers.items():
        model = load(workdir)
        init = jax.jit(model.task.init)
        some, key = batch_of(people["train"][1]), jax.random.key(seed)
        fresh = functools.partial(init, key, some, {})
        systems[name] = latents(model.task, lambda model=model: model.variables)
        systems[f"{name} untrained"] = latents(model.task, fresh)
    found = {}

    def add(what: str, system: str, *asked) -> None:
        kept = out / f"{system} {what}.json".replace(" ", "-")
        if not kept.is_file():
            files.write_json(kept, score(*asked))
        found[f"{what:12s}{system}"] = json.loads(kept.read_text())

    for system, features in {**systems, "minimum norm": grid_spectra}.items():
        add("chirp", system, features, chirps, people)
    for place in PLACES:
        there = {
            part: [[moved(one, place) for one in made] for made in everyone]
            for part, everyone in people.items()
        }
        known = {"minimum norm": on_grid, "known place": at_place(place)}
        for system, features in {**systems, **known}.items():
            add(place, system, features, moments, there)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("tokenizers", nargs="+", metavar="NAME=TOKENIZER")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    tokenizers = dict(one.split("=", 1) for one in asked.tokenizers)
    for name, people in measured(asked.seed, tokenizers, asked.out).items():
        r = np.array(people)  # [people, recordings, series]
        who = np.repeat(np.arange(len(r)), r.shape[1])
        for series, points in enumerate(r.reshape(len(who), -1).T):
            told = interval(points, np.ones(len(who)), who)
            what = ("power", "pitch")[series] if r.shape[2] > 1 else ""
            bounds = f"[{told.low:+.3f}, {told.high:+.3f}]"
            print(f"{name:36s} {what:6s} {told.value:+.3f} {bounds}")


if __name__ == "__main__":
    main()
