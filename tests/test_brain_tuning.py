"""Sound and the brains that follow it: what a volume faces, and what is learnt."""

import json

import numpy as np
import pytest
from tiny_models import TINY

from neurofm import config
from neurofm.config import Data, Eval, Experiment, Responses, Train
from neurofm.data import labelled
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.errors import NeuroFMError
from neurofm.finetune import finetune
from neurofm.models.finetune import Finetune
from neurofm.optim import Optim
from neurofm.simulate import listeners, sounds

SFREQ, TR, N = TINY.sfreq, 2 * TINY.window_samples / TINY.sfreq, 14
STORIES = ("train", "train", "valid", "test")


def stories(folder):
    """Noise that is loud or soft, a volume long each time; and how loud it was."""
    rng = np.random.default_rng(0)
    loud = rng.integers(0, 2, (len(STORIES), N))
    info = DatasetInfo(kind="audio", sfreq=SFREQ, unit="full_scale", ch_names=("mono",))
    each = round(TR * SFREQ)

    def made():
        for i in range(len(STORIES)):
            tone = np.sin(np.arange(N * each) * 0.9)
            noise = rng.standard_normal(N * each)
            x = 0.1 * np.where(np.repeat(loud[i], each), tone, noise)
            yield Recording(
                item=f"story_{i}", samples=x[None].astype(np.float32), meta={}
            )

    write_dataset(folder, info, made())
    return loud


def brains(folder, loud, subjects=("a", "b"), **more):
    """A region that follows the sound of a volume, one of noise, one that is lost."""
    rng = np.random.default_rng(1)
    runs = []
    for subject in subjects:
        for i, split in enumerate(STORIES):
            x = rng.standard_normal((3, N))
            x[0] = loud[i] + 0.05 * x[0]
            x[2] = np.nan
            meta = {"subject": subject, "timeline": f"story_{i}", "split": split}
            name, x = f"{subject}_{i}", x.astype(np.float32)
            runs.append(Recording(item=name, samples=x, meta=meta | more))
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / TR,
        unit="z",
        ch_names=("follows", "noise", "lost"),
        payload="float32",
        processing={"tr_s": TR, "atlas": "made"},
    )
    write_dataset(folder, info, runs)
    return [run.samples for run in runs]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    loud = stories(folder / "sound")
    return folder, brains(folder / "brain", loud)


def find(folder, windows, use="train", **settings):
    task = Finetune(
        task=TINY, answer="responses", windows=windows, classes=("x", "y", "z")
    )
    responses = Responses(path=str(folder / "brain"), **settings)
    data = Data(path=str(folder / "sound"), responses=responses)
    datasets = [open_dataset(path) for path in data.stores]
    return labelled.find(datasets, task.batch_spec(), data, use), datasets, task, data


def test_an_example_ends_with_its_volume_and_begins_in_silence(world):
    folder, samples = world
    found, datasets, task, data = find(folder, 3, subjects=("b",), trim=(0, 3))
    each = round(TR * SFREQ)
    size = 3 * TINY.window_samples
    wanted = [
        (item, (k + 1) * each - size, (k + 1) * each)
        for item in (0, 1)
        for k in range(N - 3)
    ]
    assert [*zip(found.item, found.start, found.stop, strict=True)] == wanted
    x = samples[4][:2, :-3].astype(float)  # of b, the first story
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(found.vectors[: N - 3, :2], z.T, atol=1e-5)
    assert np.isnan(found.vectors[:, 2]).all()
    assert found.start[0] < 0
    plan = labelled.held_out(datasets, task.batch_spec(), data, None, 4, "test")
    assert plan.n_crops == 12
    rows = [plan.crop(i) for i in range(N - 3)]
    batch = plan.fill(rows, task.batch_spec())
    assert batch["audio/wave"].shape == (N - 3, 1, size)
    np.testing.assert_array_equal(batch["audio/span"][0], (size - each, size))
    assert not batch["audio/wave"][0, 0, : size - each].any()
    assert batch["audio/wave"][0, 0, size - each :].any()


@pytest.mark.parametrize("control", ["volumes", "blocks"])
def test_a_control_gives_training_the_same_volumes_in_another_order(world, control):
    folder, _ = world
    true, *_ = find(folder, 1)
    moved, *_ = find(folder, 1, control=control, block=4)
    assert not np.array_equal(true.vectors[:N, :2], moved.vectors[:N, :2])
    for first in range(0, len(true), N):
        a, b = (np.sort(x.vectors[first : first + N, :2], 0) for x in (true, moved))
        np.testing.assert_array_equal(a, b)
    kept = 0
    for row in range(N - 1):
        at = np.flatnonzero(true.vectors[:N, 0] == moved.vectors[row, 0])[0]
        kept += at + 1 < N and true.vectors[at + 1, 0] == moved.vectors[row + 1, 0]
    assert kept >= 9 if control == "blocks" else kept < 5
    for use in ("valid", "test"):
        a, b = (
            find(folder, 1, use, control=c)[0].vectors[:, :2] for c in ("none", control)
        )
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import jax

    from neurofm import model

    shapes = model.abstract_batch(TINY, 2)
    batch = {name: jax.numpy.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    variables = jax.jit(lambda key: TINY.init(key, batch, {}))(jax.random.key(5))
    folder = tmp_path_factory.mktemp("base") / "m"
    model.save(folder, TINY, jax.device_get(variables), {})
    return folder


def run(folder, **more):
    responses = Responses(path=str(folder / "brain"), subjects=("a",))
    task = Finetune(task=TINY, answer="responses", windows=2, regime="lora")
    return Experiment(
        task=task,
        data=Data(path=str(folder / "sound"), responses=responses, workers=1),
        optim=Optim(lr=1e-2, warmup=0.0),
        train=Train(epochs=12.0, batch_size=7, keep=1),
        eval=Eval(metric="correlation"),
        **more,
    )


def test_a_region_that_follows_the_sound_is_predicted(world, base, tmp_path):
    folder, _ = world
    done = finetune(run(folder), base, tmp_path / "run")
    assert done.scores["metric"] == "correlation"
    assert done.scores["by_region"]["follows"] > 0.7
    assert abs(done.scores["by_region"]["noise"]) < 0.7
    assert done.scores["regions_left_out"] == 1
    assert done.scores["scores"]["model"]["n"] == N
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["task"]["classes"] == ["follows", "noise", "lost"]


def test_what_does_not_fit_is_named(world, base, tmp_path):
    folder, _ = world
    for override, told in (
        ("data.responses.path=", "data.responses.path is empty"),
        ("data.target=split", "are both given"),
        ('data.responses.subjects=["c"]', "'c', who is not in"),
        ("data.responses.trim=[9,9]", "no volume of fMRI to train on"),
        (f"data.responses.path={folder / 'sound'}", "give fMRI"),
    ):
        with pytest.raises(NeuroFMError, match=told):
            finetune(config.override(run(folder), (override,)), base, tmp_path / "r")
    other = tmp_path / "other"
    brains(other, np.zeros((4, N)), ("a",), timeline="film")
    exp = config.override(run(folder), (f"data.responses.path={other}",))
    with pytest.raises(NeuroFMError, match="timelines are film"):
        finetune(exp, base, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_simulated_regions_follow_what_they_are_said_to():
    who, heard = listeners.listener(3, 0), listeners.story(3, 0, 60)
    assert heard.wave.shape == (60 * sounds.N_SAMPLES,)
    assert 0.4 < (heard.label[1:] == heard.label[:-1]).mean() < 0.75
    made = listeners.response(who, heard)
    np.testing.assert_allclose(made[who.kind != "null"].std(1), 1, rtol=1e-6)
    assert not made[who.kind == "null"].any()
    # A response is a delayed sum of what was heard: these delays explain it.
    lags = range(8)
    one_hot = np.eye(12)[heard.label]
    for region in np.flatnonzero(who.kind == "class")[:3]:
        drive = one_hot @ who.weights[region]
        past = [np.r_[np.zeros(k), drive[: 60 - k]] for k in lags]
        x = np.stack([*past, np.ones(60)], 1)[16:]
        y = made[region, 16:]
        left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        assert left.var() < 0.1 * y.var()
    again = listeners.recorded(who, heard, 3, 0)
    np.testing.assert_array_equal(again, listeners.recorded(who, heard, 3, 0))
    assert not np.array_equal(again, listeners.recorded(who, heard, 3, 1))
