"""Training on simulated scenes: against slow scenes, over restarts, led astray."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from data_pipelines.audio import prepare
from neurofm.config import Data, Eval, Experiment, Train
from neurofm.data import audio, loader
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.scenes import open_scenery
from neurofm.errors import NeuroFMError
from neurofm.models.wavjepa import WavJEPA
from neurofm.models.wavjepa_scenes import Scenes
from neurofm.objectives.masks import TimeInverse
from neurofm.optim import Optim
from neurofm.run.metrics import read_rows
from neurofm.signals.audio import resample
from neurofm.step import draw_key
from neurofm.train import pretrain

SFREQ, WINDOW, CLIP, RIR, FADE = 1000.0, 509, 1500, 80, 200
SCENES = Scenes(source="simulated", sfreq=SFREQ, clip_s=1.5, rir_s=0.08)
TASK = WavJEPA(
    sfreq=SFREQ,
    window_samples=WINDOW,
    n_chans=2,
    conv_layers=((8, 10, 5), (8, 2, 2)),
    width=16,
    depth=1,
    heads=2,
    predictor_width=8,
    predictor_depth=1,
    predictor_heads=2,
    top_k=1,
    masker=TimeInverse(context_length=4, target_length=4),
    context_caps=(40,),
    compute="dense",  # compiles faster
    scenes=SCENES,
)


def room(rng, n_samples: int, n_places: int = 3) -> np.ndarray:
    """Decaying noise at two ears, later and softer at one of them, `[2 P, n]`."""
    decay = np.exp(-np.arange(n_samples) / 20)
    ears = rng.normal(0, 1e-3, (n_places, 2, n_samples)) * decay
    for place, far in enumerate(rng.integers(0, 2, n_places)):
        delay = int(rng.integers(1, 9))
        ears[place, far, delay:] = 0.4 * ears[place, far, :-delay]
        ears[place, far, :delay] = 0
    return ears.reshape(2 * n_places, n_samples)


def write(path: Path, waves, splits, sfreq=SFREQ) -> None:
    info = DatasetInfo(
        kind="audio",
        sfreq=sfreq,
        unit="full_scale",
        ch_names=tuple(f"c{i}" for i in range(len(waves[0]))),
        payload="float32",
    )
    recordings = [
        Recording(
            item=f"item{i}",
            samples=wave,
            meta={"split": split, "sha256": f"{path.name} {i}"},
        )
        for i, (wave, split) in enumerate(zip(waves, splits, strict=True))
    ]
    write_dataset(path, info, recordings)


@dataclass(frozen=True)
class Stores:
    """What was written: samples by store, and the settings that name the stores."""

    waves: dict[str, list[np.ndarray]]
    data: Data


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Stores:
    """Clips shorter than a crop, shorter and longer than a scene; noises too."""
    folder, rng = tmp_path_factory.mktemp("stores"), np.random.default_rng(4)
    lengths = {
        "sound": [300, 700, 1400, 1500, 2600, 4000, 420, 1800],
        "noise": [150, 700, 1500, 1501, 3000, 900, 800],
        "rooms": [60, 80, 130, 100, 70],
    }
    splits = {
        "sound": ["train"] * 6 + ["valid"] * 2,
        "noise": ["train"] * 4 + [""] + ["test", "valid"],
        "rooms": ["train"] * 3 + ["test"] * 2,
    }
    waves = {
        name: [
            (room(rng, n) if name == "rooms" else rng.normal(0, 0.1, (1, n))).astype(
                np.float32
            )
            for n in lengths[name]
        ]
        for name in lengths
    }
    for name in waves:
        write(folder / name, waves[name], splits[name])
    paths = {name: str(folder / name) for name in waves}
    return Stores(
        waves, Data(path=paths["sound"], noise=paths["noise"], rooms=paths["rooms"])
    )


def planned(task, data, seed=3):
    spec = task.batch_spec("train")
    scenery = open_scenery(spec, data)
    sound = open_dataset(data.path)
    return spec, audio.training([sound], spec.contract, data, seed, scenery)


def read(task, data, step, batch_size=12, rows=None, seed=3):
    """A batch as training gets it, and the plan of its rows."""
    spec, made = planned(task, data, seed)
    rows = np.arange(batch_size) if rows is None else rows
    batches = loader.batches(made, spec, batch_size, rows, step, workers=0)
    batch = next(iter(batches))
    del batch["redraws"]
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    return batch, [made.crop(step * batch_size + int(row)) for row in rows]


@functools.cache
def draw(task, train=True):
    def run(batch, step):
        key = draw_key(3, step, "train" if train else "eval")
        return task.draw(batch, key, step, train)

    return jax.jit(run)


def draws_of(task, batch, step=0) -> dict[str, Any]:
    return draw(task)(batch, jnp.int32(step))


def loss(task, batch, draws) -> float:
    sound = {"audio/wave": jnp.zeros((1, 2, 600))}
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), sound, {}))
    rng = np.random.default_rng(1)
    random = jax.tree.map(lambda x: rng.normal(0.1, 0.3, x.shape), shapes)
    variables = jax.tree.map(lambda x: x.astype(np.float32), random)
    run = jax.jit(lambda v, b, d: task.loss(v, b, d, jnp.int32(0), True))
    error, weight = run(variables, batch, draws)[0]["latent"]
    return float(error / weight)


# ---- the published rule, slowly ------------------------------------------------------


def slow_noise(noise: np.ndarray, offset: int, n: int) -> np.ndarray:
    """A noise as long as the clip: cut and faded out, or faded twice and placed."""
    rise = np.linspace(0, 1, FADE)
    if len(noise) > n:
        noise = noise[:n].copy()
        m = min(FADE, n)
        noise[n - m :] *= rise[:m][::-1]
        return noise
    noise = noise.copy()
    m = min(FADE, len(noise))
    noise[:m] *= rise[:m]
    noise[len(noise) - m :] *= rise[:m][::-1]
    out = np.zeros(n)
    out[offset : offset + len(noise)] = noise
    return out


def slow_scene(clip, noise, room, snr_db, offset) -> np.ndarray:
    """`[2, N]`: direct convolution, one place after the other."""
    n, (source, *places) = (
        len(clip),
        room[:, :RIR].reshape(-1, 2, room[:, :RIR].shape[1]),
    )
    placed = slow_noise(noise, offset, n)
    ears = []
    for ear in range(2):
        heard = np.convolve(clip, source[ear])[:n]
        unwanted = sum(np.convolve(placed, place[ear])[:n] for place in places)
        actual = 10 * np.log10(np.sum(heard**2) / np.sum(unwanted**2))
        ears.append(heard + unwanted * 10 ** ((actual - snr_db) / 20))
    return np.stack(ears)


def slow_crops(stores, data, crops, draws=None, down=1) -> np.ndarray:
    """The crops of a batch, `[B, 2, U]`: of its scenes, or clean without draws.

    The model hears them at a rate `down` times lower than that of the stores.
    """
    out = np.zeros((len(crops), 2, WINDOW // down))
    for row, crop in enumerate(crops):
        wave = stores.waves["sound"][crop.item][0].astype(float)
        wave = wave * 10 ** (-14 / 20) / np.sqrt(np.mean(wave**2))
        clip = wave[crop.scene.start :][:CLIP]
        if data.short == "released":
            clip = np.pad(clip, (0, CLIP - len(clip)))
        ears = np.stack([clip, clip])
        if draws is not None:
            ears = slow_scene(
                clip,
                stores.waves["noise"][crop.scene.noise][0].astype(float),
                stores.waves["rooms"][crop.scene.room].astype(float),
                float(draws["scene"].snr_db[row]),
                int(draws["scene"].offset[row]),
            )
        ears = resample(ears, SFREQ, SFREQ / down)
        first, past = (edge // down for edge in crop.span)
        out[row, :, first:past] = ears[:, max(crop.at // down, 0) :][:, : past - first]
    assert len({len(stores.waves["sound"][c.item][0]) for c in crops}) > 2
    return out.astype(np.float32)


def as_recorded(task, batch, waves, draws):
    """The same loss of crops that were recorded by two microphones."""
    parts = {name: batch[name] for name in ("audio/span", "index", "valid")}
    masks = {name: draws[name] for name in ("context", "target", "altered")}
    recorded = replace(task, scenes=Scenes())
    return loss(recorded, {**parts, "audio/wave": jnp.asarray(waves)}, masks)


@pytest.mark.parametrize("short", ["once", "released"])
def test_the_loss_is_that_of_the_published_scene_made_slowly(stores, short):
    data = replace(stores.data, short=short, min_active=0.0, crops_per_clip=3)
    batch, crops = read(TASK, data, step=1)
    draws = draws_of(TASK, batch)
    waves = slow_crops(stores, data, crops, draws)
    heard = TASK.scenes.crops(batch, draws, SFREQ, WINDOW)
    scale = waves.std((1, 2), keepdims=True)
    np.testing.assert_allclose(heard / scale, waves / scale, atol=2e-4)
    np.testing.assert_allclose(
        loss(TASK, batch, draws), as_recorded(TASK, batch, waves, draws), rtol=1e-4
    )


def test_scenes_of_a_finer_rate_are_mixed_there_and_then_resampled(stores):
    # The stores hold 1000 Hz, and the model takes half of that.
    task = replace(TASK, sfreq=SFREQ / 2, window_samples=WINDOW // 2)
    data = replace(stores.data, crops_per_clip=3)
    batch, crops = read(task, data, step=1)
    draws = draws_of(task, batch)
    assert batch["audio/wave"].shape == (12, 1, CLIP)
    waves = slow_crops(stores, data, crops, draws, down=2)
    heard = task.scenes.crops(batch, draws, SFREQ / 2, WINDOW // 2)
    for wave, ours, crop in zip(waves, heard, crops, strict=True):
        first, past = (edge // 2 for edge in crop.span)
        inside = np.s_[:, first:past]
        np.testing.assert_allclose(ours[inside], wave[inside], atol=2e-4 * wave.std())


def test_a_clean_step_hears_the_clip_at_both_ears(stores):
    task = replace(TASK, scenes=replace(SCENES, clean_ratio=1.0))
    data = replace(stores.data, crops_per_clip=3)
    batch, crops = read(task, data, step=1)
    draws = draws_of(task, batch)
    waves = slow_crops(stores, data, crops)
    np.testing.assert_allclose(
        loss(task, batch, draws), as_recorded(task, batch, waves, draws), rtol=1e-5
    )
    noisy = {**draws, "step": {"clean": jnp.array(False)}}
    assert abs(loss(task, batch, noisy) / loss(task, batch, draws) - 1) > 1e-4


def test_a_clean_step_is_one_coin_of_its_step_and_evaluation_is_never_clean(stores):
    task = replace(TASK, scenes=replace(SCENES, clean_ratio=0.25))
    batch, _ = read(task, stores.data, step=0)

    steps = jnp.arange(2000)
    coins, held_out = (
        jax.jit(jax.vmap(lambda n, t=train: draw(task, t)(batch, n)["step"]["clean"]))(
            steps
        )
        for train in (True, False)
    )
    assert coins.shape == (2000,)
    assert abs(coins.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
    assert not held_out.any()


# ---- which scene a row has -----------------------------------------------------------


def test_all_crops_of_a_clip_hear_one_scene_also_across_steps(stores):
    scenes, cut = {}, {}
    for step in range(12):
        batch, crops = read(TASK, stores.data, step, batch_size=5)
        drawn = draws_of(TASK, batch, step)["scene"]
        for row, crop in enumerate(crops):
            own = float(drawn.snr_db[row]), int(drawn.offset[row])
            scenes.setdefault((crop.item, crop.scene), set()).add(own)
            cut.setdefault((crop.item, crop.scene), []).append(crop.at)
            n_noise = stores.waves["noise"][crop.scene.noise].shape[1]
            assert 0 <= own[1] <= max(crop.scene.n_samples - n_noise, 0)
    assert all(len(own) == 1 for own in scenes.values())
    assert len({own.pop()[0] for own in scenes.values()}) == len(scenes)
    whole = [at for (item, _), at in cut.items() if item > 0]
    assert {len(at) for at in whole[:-1]} == {8}
    assert any(len(set(at)) > 4 for at in whole)
    # Noises and rooms of the splits `train` and none only, and all of these.
    assert {scene.noise for _, scene in scenes} <= {0, 1, 2, 3, 4}
    assert {scene.room for _, scene in scenes} == {0, 1, 2}


def test_a_long_recording_gives_another_stretch_each_epoch(stores):
    _, made = planned(TASK, replace(stores.data, crops_per_clip=1))
    crops = [made.crop(row) for row in range(600)]
    starts = [c.scene.start for c in crops if c.item == 5]
    assert len(starts) == 100
    assert min(starts) < 250
    assert max(starts) > 2250
    assert all(c.scene.start == 0 for c in crops if c.item < 4)


def test_scenes_follow_from_stores_and_seed_alone(stores, tmp_path):
    whole, _ = read(TASK, stores.data, step=2)
    again, _ = read(TASK, replace(stores.data, workers=1), step=2)
    part, _ = read(TASK, stores.data, step=2, rows=np.array([3, 4, 9]))
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)
        np.testing.assert_array_equal(part[name], value[np.array([3, 4, 9])])
    other, _ = read(TASK, stores.data, step=2, seed=4)
    assert (other["scene/key"] != whole["scene/key"]).all()
    write(tmp_path / "noise", stores.waves["noise"][:3], ["train"] * 3)
    elsewhere = replace(stores.data, noise=str(tmp_path / "noise"))
    other, _ = read(TASK, elsewhere, step=2)
    assert (other["scene/key"] != whole["scene/key"]).all()
    np.testing.assert_array_equal(other["audio/span"], whole["audio/span"])


def test_held_out_scenes_are_fixed_and_of_held_out_noises_where_there_are_some(stores):
    spec, made = planned(TASK, stores.data)
    sound = open_dataset(stores.data.path)

    def held_out():
        found = audio.held_out([sound], spec.contract, stores.data, 9, made.scenery)
        return [found.crop(row) for row in range(found.n_crops)]

    crops = held_out()
    assert crops == held_out()
    assert [c.item for c in sorted(crops)] == [6, 7, 7]
    assert {c.scene.noise for c in crops} == {6}
    assert {c.scene.room for c in crops} <= {0, 1, 2}  # none is held out
    assert len({c.scene for c in crops}) == 2  # tiles of a clip share theirs


# ---- rooms come from sound files -----------------------------------------------------


def test_prepared_rooms_keep_the_levels_between_their_channels(stores, tmp_path):
    rng, source = np.random.default_rng(0), tmp_path / "rirs"
    source.mkdir()
    rirs = room(rng, 900) * np.array([1, 1e-3, 0.03, 5e-5, 0, 0])[:, None]
    soundfile.write(source / "a.wav", rirs.T, int(SFREQ), subtype="FLOAT")
    prepare(source, tmp_path / "rooms", sfreq=SFREQ, channels="all")
    task = replace(TASK, scenes=replace(SCENES, rir_s=1.0))
    data = replace(stores.data, rooms=str(tmp_path / "rooms"))
    batch, _ = read(task, data, step=0)
    source, noise = batch["scene/rirs"][0, :, :, :900]
    peaks = np.abs(rirs).max(axis=1)
    for got, wanted, peak in zip([*source, *noise], rirs[:4], peaks, strict=False):
        np.testing.assert_allclose(got, wanted, atol=peak / 32767)


# ---- a run ---------------------------------------------------------------------------


def experiment(data, **fields):
    return Experiment(
        task=replace(TASK, scenes=replace(SCENES, clean_ratio=0.4)),
        data=data,
        optim=Optim(lr=1e-2, warmup=0.25),
        train=Train(steps=6, batch_size=4, log_every=1, checkpoint_every=2),
        eval=Eval(every=3, crops=4),
        **fields,
    ).resolved()


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("neurofm.report.page.render", lambda runs, out: out)


def losses(workdir):
    kept = ("step", "train/loss", "eval/loss", "optim/grad_norm")
    rows = read_rows(workdir / "metrics.jsonl")
    return [{k: row[k] for k in kept if k in row} for row in rows]


@pytest.mark.slow
def test_a_run_on_scenes_stopped_and_started_again_ends_as_if_in_peace(
    stores, tmp_path
):
    class Killed(BaseException):
        pass

    def kill(step, row):
        if step == 3 and "train/loss" in row:
            raise Killed

    exp = experiment(stores.data)
    assert pretrain(exp, tmp_path / "peace").status == "done"
    with pytest.raises(Killed):
        pretrain(exp, tmp_path / "run", kill)
    assert pretrain(exp, tmp_path / "run").status == "done"
    rows = losses(tmp_path / "run")
    assert rows == losses(tmp_path / "peace")
    assert [row["step"] for row in rows if "eval/loss" in row] == [0, 3, 6]
    assert all(np.isfinite(value) for row in rows for value in row.values())

    names = ("path", "noise", "rooms")
    hashes = [open_dataset(getattr(stores.data, name)).hash for name in names]
    told = json.loads((tmp_path / "run" / "env.json").read_text())
    assert told["datasets"] == hashes
    seen = (tmp_path / "run" / "pretrained_on.txt").read_text().splitlines()
    wanted = {"noise": range(5), "rooms": range(3), "sound": range(6)}
    assert seen == [f"{name} {i}" for name, items in wanted.items() for i in items]

    write(tmp_path / "rooms", stores.waves["rooms"][:2], ["train"] * 2)
    other = experiment(replace(stores.data, rooms=str(tmp_path / "rooms")))
    with pytest.raises(NeuroFMError, match="was trained on other data"):
        pretrain(other, tmp_path / "run")


# ---- led astray ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({"noise": ""}, r"data.noise is empty, .*prepare.* data.noise and data.rooms"),
        ({"rooms": ""}, r"data.rooms is empty"),
        ({"noise": "rooms"}, r"data.noise=.* has 6 channels .*--channels first"),
        ({"rooms": "sound"}, r"data.rooms=.* has 1 channel\(s\) .*--channels all"),
        ({"rooms": "pair"}, r"has 2 channel\(s\) where a room has two .* source and"),
        ({"noise": "fast"}, r"has sfreq 2000.0 where .* 1000.0: .*--sfreq 1000"),
        ({"noise": "silent"}, r"silent holds nothing to train on: all of its 2"),
        ({"path": "rooms"}, r"n_chans 6 where the model takes 1: .*--channels first"),
    ],
)
def test_stores_that_make_no_scene_are_refused(stores, tmp_path, store, message):
    folder = Path(stores.data.path).parent
    ones = np.ones((2, 50), np.float32)
    write(tmp_path / "pair", [ones], ["train"])
    write(tmp_path / "fast", [ones[:1]], ["train"], sfreq=2000.0)
    write(tmp_path / "silent", [0 * ones[:1], ones[:1]], ["train", "test"])

    def path(name):
        return name and str((tmp_path if (tmp_path / name).exists() else folder) / name)

    data = replace(stores.data, **{name: path(value) for name, value in store.items()})
    with pytest.raises(NeuroFMError, match=message):
        pretrain(experiment(data), tmp_path / "run")


def test_noises_are_refused_by_a_task_that_makes_no_scenes(stores, tmp_path):
    exp = replace(experiment(stores.data), task=replace(TASK, scenes=Scenes()))
    with pytest.raises(NeuroFMError, match=r"data.noise is given, .*source=simulated"):
        pretrain(exp, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip_s": 0.0}, "task.scenes.clip_s is 0.0: give more"),
        ({"sfreq": 1500.0}, r"task.scenes.sfreq is 1500: give task.sfreq \(1000\) or"),
        ({"rir_s": -1.0}, "task.scenes.rir_s is -1.0"),
        ({"snr_db": (9.0, 5.0)}, r"task.scenes.snr_db is \(9.0, 5.0\)"),
        ({"clean_ratio": 1.5}, "task.scenes.clean_ratio is 1.5"),
        ({"clip_s": 0.5}, r"task.scenes.clip_s is 0.5: .* 0.509 s, or longer"),
    ],
)
def test_settings_that_make_no_scene_are_refused(fields, message):
    with pytest.raises(NeuroFMError, match=message):
        replace(TASK, scenes=replace(SCENES, **fields))


def test_scenes_are_for_two_ears():
    with pytest.raises(NeuroFMError, match=r"set task\.n_chans=2"):
        replace(TASK, n_chans=1)
