"""Experiments: overrides, JSON, differences, and the configs that are shipped."""

import functools
import json
import typing
from dataclasses import replace

import jax
import numpy as np
import pytest
from golden.compare import assert_golden, golden_names
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType

from neurofm import config
from neurofm.config import Data, Eval, Experiment, Init, Mesh, Train
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_batch, abstract_frozen, abstract_variables
from neurofm.models.wavjepa import WavJEPA
from neurofm.objectives.masks import Speech, TimeInverse
from neurofm.optim import Group, Optim
from neurofm.parallel.mesh import AXES
from neurofm.parallel.sharding import param_shardings, state_shardings
from neurofm.step import new_state, train_step

BASE = Experiment(task=WavJEPA(depth=3, top_k=2))


def overridden(*overrides):
    return config.override(BASE, overrides)


# ---- overrides -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("train.steps=7", lambda e: e.train.steps, 7),
        ("seed=3", lambda e: e.seed, 3),
        ("optim.lr=1e-3", lambda e: e.optim.lr, 1e-3),
        ("optim.lr=2", lambda e: e.optim.lr, 2.0),
        ("optim.betas=[0.8,0.9]", lambda e: e.optim.betas, (0.8, 0.9)),
        ("task.remat=block", lambda e: e.task.remat, "block"),
        ("task.attention=xla", lambda e: e.task.attention, "xla"),
        ("task.compute=dense", lambda e: e.task.compute, "dense"),
        ('task.compute="dense"', lambda e: e.task.compute, "dense"),
        ("task.horizon=null", lambda e: e.task.horizon, None),
        ("task.masker.n_groups=2", lambda e: e.task.masker.n_groups, 2),
        (
            "task.conv_layers=[[4,10,5],[6,2,2]]",
            lambda e: e.task.conv_layers,
            ((4, 10, 5), (6, 2, 2)),
        ),
        (
            'task.masker={"kind": "speech", "min_run": 3}',
            lambda e: e.task.masker,
            Speech(min_run=3),
        ),
        ('task={"name": "wavjepa", "heads": 6}', lambda e: e.task, WavJEPA(heads=6)),
        ('optim={"lr": 0.5}', lambda e: e.optim, Optim(lr=0.5)),
        ("data.path=records/a b", lambda e: e.data.path, "records/a b"),
        ("data.path=2026", lambda e: e.data.path, "2026"),
        ("data.path=a=b", lambda e: e.data.path, "a=b"),
        ('data.path=["a","b"]', lambda e: e.data.path, ("a", "b")),
        ("init.frozen.tokenizer=a", lambda e: e.init.frozen, {"tokenizer": "a"}),
        (
            'optim.groups=[{"path": "norm", "weight_decay": 0.0}]',
            lambda e: e.optim.groups,
            (Group(path="norm", weight_decay=0.0),),
        ),
        ("data.weights=[1,2.5]", lambda e: e.data.weights, (1.0, 2.5)),
    ],
)
def test_a_setting_takes_a_value_of_its_own_type(setting, read, value):
    changed = overridden(setting)
    assert read(changed) == value
    assert type(read(changed)) is type(value)
    assert read(BASE) != value or value is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.steps", "'train.steps' is not a setting: write it as a.b=value"),
        ("train.stepps=1", r"'train.stepps': did you mean train\.steps"),
        ("tain.steps=1", "'tain.steps': did you mean train or task"),
        ("xyz=1", "'xyz': known are task, data, optim, train"),
        ("task.masker.n_group=1", r"did you mean task\.masker\.n_groups"),
        ("task.name=other", "no setting 'task.name'"),
        ("train.steps.x=1", "'train.steps.x' goes too deep"),
        ("train.steps=1.5", "train.steps=1.5 does not fit: int was expected"),
        ("train.steps=true", "int was expected"),
        ("train.steps=0", "train.steps is 0: give 1 or more"),
        ("train.accumulate=5", r"batch_size \(512\) is not a multiple of .* \(5\)"),
        ("optim.lr=fast", "optim.lr=fast does not fit: float was expected"),
        ("optim.lr=NaN", "optim.lr=NaN does not fit"),
        ("optim.betas=[0.9]", "optim.betas=.* does not fit"),
        ("optim.warmup=2", "give the share of the run, 0 to 1"),
        ("task.remat=true", "one of 'none', 'block', 'selective' was expected"),
        ("data.transductive=yes", "bool was expected"),
        ("task.compute=sparse", "one of 'gathered', 'dense'"),
        ("task.top_k=4", r"task.top_k is 4: give 1 to task.depth \(3\)"),
        ("train=5", "train is 5: an object of settings was expected"),
        ("train=long", "train holds several settings"),
        ('train={"stps": 5}', "'train.stps': did you mean steps"),
        ('train={"steps": "5"}', 'train.steps="5" does not fit'),
        ('task={"depth": 2}', "task has no 'name': known are .*wavjepa"),
        ('task={"name": "wavjep"}', "'wavjep': did you mean wavjepa"),
        ('task.masker={"n_groups": 2}', "kind is None: one of .*speech"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_can(setting, message):
    with pytest.raises(NeuroFMError, match=message):
        overridden(setting)


def test_settings_that_fit_only_together_are_taken_in_any_order():
    pairs = ("task.width=100", "task.heads=10"), ("task.depth=1", "task.top_k=1")
    for one, other in pairs:
        assert overridden(one, other) == overridden(other, one)
    with pytest.raises(NeuroFMError, match=r"task\.width is 100"):
        overridden("task.width=100")


def test_of_two_settings_for_one_key_the_later_counts():
    assert overridden("train.steps=3", "train.steps=5").train.steps == 5
    assert overridden("train.steps=3", 'train={"keep": 2}').train == Train(keep=2)
    both = overridden('train={"keep": 2}', "train.steps=3")
    assert both.train == Train(keep=2, steps=3)


def test_what_follows_from_the_length_of_a_run_is_filled_in_after_overrides():
    loaded = config.load("wavjepa/tiny", ("train.steps=123", "task.horizon=5"))
    assert loaded.task.horizon == 123


@pytest.mark.parametrize(
    ("node", "field", "value", "message"),
    [
        (Data(), "path", ["a"], r"data.path is \['a'\]: .* was expected"),
        (Optim(), "betas", (0.9, 0.9, 0.9), "optim.betas is"),
        (Optim(), "eps", float("inf"), "optim.eps is inf: float was expected"),
        (Train(), "keep", True, "train.keep is True: int was expected"),
        (WavJEPA(), "context_caps", (8.0,), "task.context_caps is"),
        (WavJEPA(), "masker", Speech(), "task.masker.min_run is"),
    ],
)
def test_a_config_file_with_a_wrong_value_fails_where_it_is_made(
    node, field, value, message
):
    if field == "masker":
        object.__setattr__(value, "min_run", 0.5)
    # Written past the constructor, whose types only the tests check.
    object.__setattr__(node, field, value)
    with pytest.raises(NeuroFMError, match=message):
        replace(BASE, **{message.partition(".")[0]: node})


# ---- JSON ----------------------------------------------------------------------------

finite = st.floats(0, 1e6)
names = st.text("abc/= é", max_size=5)
maskers = st.one_of(
    st.tuples(st.just(TimeInverse), st.fixed_dictionaries({"target_share": finite})),
    st.tuples(st.just(Speech), st.fixed_dictionaries({"min_run": st.integers(0, 9)})),
)
tasks = {
    "depth": st.integers(8, 20),
    "compute": st.sampled_from(["gathered", "dense"]),
    "horizon": st.none() | st.integers(0, 2**40),
    "context_caps": st.sampled_from([(9,), (3, 70)]),
    "remat": st.sampled_from(["none", "block", "selective"]),
}
others = {
    Data: {
        "path": names | st.lists(names, max_size=3).map(tuple),
        "weights": st.lists(finite, max_size=3).map(tuple),
        "hold_out": st.lists(names, max_size=2).map(tuple),
    },
    Optim: {
        "lr": finite,
        "betas": st.tuples(finite, finite),
        "groups": st.sampled_from([(), (Group(path="a|b", lr_scale=2.0),)]),
    },
    Train: {"steps": st.integers(1, 2**40), "keep": st.integers(1, 9)},
    Mesh: {"fsdp": st.integers(-1, 8)},
    Init: {"path": names, "frozen": st.dictionaries(names, names, max_size=2)},
    Eval: {"every": st.integers(0, 9)},
}


# Plain values are drawn and objects made of them here: their type checks use `random`.
@given(
    maskers,
    st.fixed_dictionaries(tasks),
    st.tuples(*map(st.fixed_dictionaries, others.values())),
    st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_an_experiment_comes_back_from_json(masker, task, fields, seed):
    kind, chosen = masker
    nodes = {
        cls.__name__.lower(): cls(**values)
        for cls, values in zip(others, fields, strict=True)
    }
    task = WavJEPA(masker=kind(**chosen), **task)
    exp = Experiment(task=task, seed=seed, **nodes)
    text = json.dumps(config.to_json(exp), allow_nan=False)
    assert config.from_json(json.loads(text)) == exp
    assert config.difference(json.loads(text), config.to_json(exp)) == []


def test_a_saved_experiment_runs_again_in_place_of_the_file(tmp_path):
    saved = tmp_path / "config.json"
    exp = config.load("wavjepa/nat", ("train.steps=9", "data.path=D"))
    saved.write_text(json.dumps(config.to_json(exp)))
    assert config.load(str(saved)) == exp
    assert config.load(str(saved), ("seed=5",)) == replace(exp, seed=5)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.json", "{", "a.json is not valid JSON"),
        ("a.json", "[1]", "an object of settings was expected"),
        ("a.json", '{"task": {"name": "wavjepa"}, "sed": 1}', "'sed': did you mean se"),
        ("a.json", '{"task": {"name": "wavjepa", "depth": "3"}}', "task.depth"),
        ("a.py", "x = 1", r"a.py has no function `config\(\) -> Experiment`"),
    ],
)
def test_a_broken_config_file_is_told_by_name(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(NeuroFMError, match=message):
        config.load(str(tmp_path / file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wavjepa/bas", "no config 'wavjepa/bas': did you mean wavjepa/base"),
        ("zzz", "no config 'zzz': known are .*wavjepa/base.*wavjepa/tiny"),
        ("gone.py", "there is no config file gone.py"),
    ],
)
def test_a_config_that_is_not_there_names_its_nearest(name, message):
    with pytest.raises(NeuroFMError, match=message):
        config.load(name)


# ---- differences ---------------------------------------------------------------------

PLACEMENT = [
    "mesh.data=2",
    "mesh.tensor=4",
    "data.path=elsewhere",
    "data.noise=elsewhere",
    "data.rooms=elsewhere",
    "init.frozen.tokenizer=elsewhere",
    "data.workers=9",
    "train.log_every=1",
    "train.checkpoint_every=1",
    "train.keep=1",
    "train.collapse_share=0",
    "eval.every=1",
]
IDENTITY = [
    ("task.depth=4", 3, 4),
    ("task.masker.n_groups=2", 4, 2),
    ("task.scenes.snr_db=[0, 9]", [5.0, 40.0], [0.0, 9.0]),
    ("task.context_caps=[70]", [48, 64, 78], [70]),
    ("data.weights=[2]", [], [2.0]),
    ("data.short=released", "once", "released"),
    ("optim.lr=1", 4e-4, 1.0),
    ("train.steps=5", 375_000, 5),
    ("train.batch_size=6", 512, 6),
    ("train.accumulate=2", 1, 2),
    ("init.path=M", "", "M"),
    ("seed=1", 0, 1),
]


def saved(*overrides):
    return json.loads(json.dumps(config.to_json(overridden(*overrides))))


@pytest.mark.parametrize("setting", PLACEMENT)
def test_placement_is_no_difference(setting):
    assert saved() != saved(setting)
    assert config.difference(saved(), saved(setting)) == []


@pytest.mark.parametrize(("setting", "old", "new"), IDENTITY)
def test_identity_is_a_difference_with_both_values(setting, old, new):
    key = setting.partition("=")[0]
    assert config.difference(saved(), saved(setting, *PLACEMENT)) == [(key, old, new)]


def test_a_field_that_came_later_is_its_default():
    old = saved()
    del old["optim"]["layers"]
    del old["optim"]["algorithm"]
    del old["data"]["even_windows"]
    del old["task"]["masker"]["n_groups"]
    assert config.difference(old, saved()) == []
    found = config.difference(old, saved("optim.algorithm=lamb", "data.even_windows=3"))
    assert found == [("data.even_windows", 0, 3), ("optim.algorithm", "adamw", "lamb")]


def test_a_field_that_is_gone_is_a_difference():
    old = saved()
    old["optim"]["momentum"] = 0.5
    assert config.difference(old, saved()) == [("optim.momentum", 0.5, None)]


def test_every_field_that_may_change_is_one_that_exists():
    known = ["a" + key for key in config._flat(saved())]
    for prefix in config.PLACEMENT:
        assert any(key.startswith("a" + prefix) for key in known), prefix


# ---- what is shipped -----------------------------------------------------------------

SHIPPED = config.shipped()
COUNTS = {  # of the published models; all, trained, used for embeddings
    "wavjepa/base": (196_299_264, 111_012_864, 89_127_168),
    "wavjepa/large": (631_189_504, 328_596_480, 306_513_920),
    "wavjepa/nat": (200_205_824, 114_689_024, 92_803_328),
}


OMNI = {  # trained, and buffers without the four flags
    "tokenizer": (5_050_338, 1_050_624),
    "tiny": (8_424_704, 0),
    "base": (32_707_328, 0),
}


def size(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@functools.cache
def of_config(name):
    """The task of a shipped config, and the shapes of its variables."""
    task = config.load(name).task
    return task, abstract_variables(task)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_what_it_was(name):
    text = json.dumps(config.to_json(config.load(name)), indent=2) + "\n"
    assert_golden(f"configs/{name}.json", text)


def test_all_sizes_are_shipped_and_each_config_has_its_golden_text():
    families = {"base", "large", "nat", "tiny", "quickstart"}
    assert {f"wavjepa/{name}" for name in families} <= set(SHIPPED)
    assert {f"brainomni/{name}" for name in OMNI} <= set(SHIPPED)
    assert golden_names("configs", ".json") == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_makes_a_step_given_only_its_data(name):
    exp = config.load(name, ("data.path=DIR", "train.batch_size=8"))
    task = exp.task
    batch = abstract_batch(task, exp.train.batch_size, "train")
    key, frozen = jax.eval_shape(lambda: jax.random.key(0)), abstract_frozen(task)
    fresh = functools.partial(new_state, task, exp.optim, exp.train.steps)
    state = jax.eval_shape(fresh, key, batch, frozen)
    step = train_step(task, exp.optim, exp.train.steps, exp.train.accumulate, exp.seed)
    moved, metrics, sums = jax.eval_shape(step, state, frozen, batch)
    assert moved == state
    assert {"train/loss", "optim/lr", "optim/grad_norm"} <= metrics.keys()
    watched = {"finetune": exp.eval.metric, "tribe": "pearson_pooled"}
    assert watched.get(task.name, "item_var") in jax.eval_shape(task.summary, sums)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 1, 8, 1), (1, 2, 2, 2)])
def test_every_parameter_of_a_shipped_config_has_its_place_on_a_mesh(name, shape):
    task, variables = of_config(name)
    mesh = AbstractMesh(shape, AXES, (AxisType.Auto,) * len(AXES))
    placed, notes = param_shardings(variables["params"], mesh, task.rules())
    assert jax.tree.structure(placed) == jax.tree.structure(variables["params"])
    assert all("does not divide it" in note for note in notes)
    if (
        shape[2] > 1 and "teacher" in variables["slow"]
    ):  # the teacher lies as its student does
        both, _ = state_shardings(variables, variables["params"], mesh, task.rules())
        teacher = both["slow"]["teacher"]
        whole = teacher.keys() == placed.keys()  # a teacher of all, or of the encoder
        assert teacher == (placed if whole else placed["encoder"])


def test_both_stages_of_brainomni_are_as_large_as_published():
    sizes = {n: of_config(f"brainomni/{n}")[1] for n in OMNI}
    for name, (trained, buffers) in OMNI.items():
        assert size(sizes[name]["params"]) == trained
        assert size(sizes[name]["buffers"]) == buffers
    first = sizes["tokenizer"]["params"]
    assert size(first["sensors"]) == 560_512
    frozen = sizes["base"]["frozen"]["tokenizer"]
    assert size(frozen) == sum(OMNI["tokenizer"])


@pytest.mark.parametrize("name", COUNTS)
def test_a_published_model_has_as_many_parameters_as_published(name):
    task = typing.cast(WavJEPA, config.load(name).task)
    variables = abstract_variables(task)
    widths = task.width + task.predictor_width
    tables = task.tokens * task.n_chans * widths  # fixed positions, counted there too
    used = jax.eval_shape(task.inference, variables)
    counts = (size(variables) + tables, size(variables["params"]), size(used))
    assert counts == COUNTS[name]
