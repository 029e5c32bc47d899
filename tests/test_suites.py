"""The suites similarity, retrieval and zero-shot, and suites of one's own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from saved_embeddings import save

from neurofm.analysis import cca, cka
from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.evaluate import evaluate
from neurofm.suites import declared

N = 24


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def two_models(tmp_path, rng):
    """Two rotated layers of one content, and a layer of noise in each model."""
    content = rng.normal(size=(N, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    a = {"layer_01": content, "last": rng.normal(size=(N, 3))}
    b = {"layer_01": rng.normal(size=(N, 4)), "last": 3 * content @ turn}
    return save(tmp_path / "a", a), save(tmp_path / "b", b)


# ---- similarity


def test_the_same_content_turned_and_scaled_is_the_same_layer(tmp_path, two_models):
    out = tmp_path / "out"
    found = evaluate(two_models, out=out, suite="similarity")
    names = [(layer["model"], layer["layer"]) for layer in found["layers"]]
    i, j = names.index(("a", "layer_01")), names.index(("b", "last"))
    noise = names.index(("a", "last"))
    for measure, values in found["similarity"].items():
        values = np.array(values)
        if measure not in ("rsa", "trsa"):  # those heed the axes
            assert values[i, j] == pytest.approx(1, abs=0.03), measure
        assert values[noise, j] < 0.95 * values[i, j], measure
        np.testing.assert_allclose(values, values.T, err_msg=measure)
        cells = found["scores"][measure]
        assert cells["a × b"]["mean"] > cells["chance"]["mean"], measure
        assert (out / f"figures/similarity_{measure}.png").is_file()
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == len(found["similarity"])


def test_a_picture_shows_what_the_measures_say_of_each_pair(tmp_path, rng):
    x, y = rng.normal(size=(N, 5)), rng.normal(size=(N, 7))
    folder = save(tmp_path / "m", {"one": x, "two": y})
    found = evaluate([folder], out=tmp_path / "out", suite="similarity")
    x, y = x.astype(np.float32), y.astype(np.float32)  # as they are stored
    for measure, expected in (
        ("cka", cka.linear(x, y)),
        ("unbiased_cka", cka.unbiased(cka.linear_kernel(x), cka.linear_kernel(y))),
        ("svcca", cca.svcca(x, y)),
        ("pwcca", cca.pwcca(x, y, "both")),
    ):
        got = found["similarity"][measure][0][1]
        assert got == pytest.approx(expected, rel=1e-6), measure
        assert found["scores"][measure]["between layers"]["mean"] == pytest.approx(got)


def test_more_items_than_asked_for_are_drawn_and_counted(tmp_path, two_models):
    suite = tmp_path / "quick.toml"
    suite.write_text('kind = "similarity"\nmeasures = ["cka"]\nmax_items = 9\n')
    found = evaluate(two_models, out=tmp_path / "out", suite=suite)
    assert found["suite"] == "quick"
    assert found["left_out"] == {"items": N - 9}
    assert list(found["similarity"]) == ["cka"]
    assert found["scores"]["cka"]["a × b"]["n"] == 9


def test_fewer_items_drawn_than_neighbours_are_too_few(tmp_path, two_models):
    path = tmp_path / "few.toml"
    path.write_text('kind = "similarity"\nmax_items = 8')
    with pytest.raises(NeuroFMError, match="8 items are too few to compare"):
        evaluate([*two_models], out=tmp_path / "o", suite=path)


def test_embeddings_of_different_items_are_not_compared(tmp_path, rng, two_models):
    items = [f"r{i:02d}" for i in range(1, N + 1)]
    other = save(tmp_path / "c", {"last": rng.normal(size=(N, 3))}, items=items)
    with pytest.raises(
        NeuroFMError, match=r"different items \(2 are .*'r00' in .*/a\)"
    ):
        evaluate([two_models[0], other], out=tmp_path / "out", suite="similarity")


# ---- retrieval


@pytest.fixture
def gallery(tmp_path, rng):
    x = rng.normal(size=(N, 8))
    segment = [f"s{i // 2 if i < 4 else i}" for i in range(N)]  # two are there twice
    x[1], x[3] = x[0], x[2]
    columns = {"segment": segment}
    return save(tmp_path / "gallery", {"last": x}, columns), x, columns


def test_noisy_copies_find_their_segment_more_often_than_chance(tmp_path, rng, gallery):
    folder, x, columns = gallery
    query = save(tmp_path / "q", {"last": x + 1.2 * rng.normal(size=x.shape)}, columns)
    found = evaluate(
        [query], data=folder, out=tmp_path / "out", suite="retrieval", target="segment"
    )
    assert (found["n_candidates"], found["n_merged"]) == (N - 2, 2)
    for k in (1, 5, 10):
        cell = found["scores"][f"top{k}"]
        assert cell["chance"]["mean"] == pytest.approx(k / (N - 2))
        assert cell["model"]["low"] > cell["chance"]["mean"]
        assert cell["model"]["low"] <= cell["model"]["mean"] <= cell["model"]["high"]


def test_a_constant_embedding_finds_nothing(tmp_path, gallery):
    folder, x, columns = gallery
    query = save(tmp_path / "q", {"last": np.zeros_like(x)}, columns)
    found = evaluate(
        [query], data=folder, out=tmp_path / "out", suite="retrieval", target="segment"
    )
    assert found["scores"]["top10"]["model"]["mean"] == 0


def test_recordings_are_cut_into_segments_of_time(tmp_path, rng):
    x = rng.normal(size=(3, 7, 4))  # a token a second
    suite = tmp_path / "cut.toml"
    suite.write_text('kind = "retrieval"\nsegment_s = 2.0\nks = [1]\n')
    folders = [save(tmp_path / name, {"last": x}) for name in ("q", "g")]
    found = evaluate(folders[:1], data=folders[1], out=tmp_path / "out", suite=suite)
    assert found["n_candidates"] == 3 * 4
    assert found["scores"]["top1"]["model"]["mean"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 5}, "queries are 5 wide and candidates 8"),
        ({"segment": "elsewhere"}, "ask for a segment that is no candidate"),
        ({"value": np.nan}, "hold what is no number"),
    ],
)
def test_what_cannot_be_retrieved_is_told(tmp_path, gallery, change, words):
    folder, x, columns = gallery
    x = x[:, : change.get("width", 8)] * change.get("value", 1.0)
    if "segment" in change:
        columns = {"segment": [change["segment"], *columns["segment"][1:]]}
    query = save(tmp_path / "q", {"last": x}, columns)
    with pytest.raises(NeuroFMError, match=words):
        evaluate(
            [query],
            data=folder,
            out=tmp_path / "o",
            suite="retrieval",
            target="segment",
        )


# ---- zero-shot


@pytest.fixture
def spoken(tmp_path, rng):
    """Three classes around directions, and two texts for each."""
    axes = np.eye(3, 6)
    label = np.arange(N) % 3
    names = np.array(["bell", "dog", "rain"])
    x = axes[label] + 0.2 * rng.normal(size=(N, 6))
    audio = save(tmp_path / "audio", {"last": x}, {"label": names[label].tolist()})
    text = np.repeat(axes, 2, 0) * np.array([[1.0], [40.0]] * 3)
    texts = save(
        tmp_path / "texts", {"last": text}, {"label": np.repeat(names, 2).tolist()}
    )
    return audio, texts, x, label


def test_sounds_are_told_by_the_texts_they_are_near(tmp_path, spoken):
    audio, texts, *_ = spoken
    found = evaluate(
        [audio], data=texts, out=tmp_path / "out", suite="zero-shot", target="label"
    )
    assert found["n_templates"] == {"bell": 2, "dog": 2, "rain": 2}
    assert found["scores"]["top1"]["model"]["mean"] > 0.9
    assert found["scores"]["top1"]["chance"]["mean"] == pytest.approx(1 / 3)
    assert found["scores"]["top3"]["model"]["mean"] == 1


def test_sounds_of_several_classes_are_scored_class_by_class(tmp_path, spoken):
    _, texts, x, label = spoken
    words = np.array(["bell", "dog", "rain"])[label].tolist()
    words = [f"{word};rain" if i % 4 == 0 else word for i, word in enumerate(words)]
    audio = save(tmp_path / "several", {"last": x}, {"label": words})
    suite = tmp_path / "tags.toml"
    suite.write_text('kind = "zero-shot"\nseparator = ";"\ntarget = "label"\n')
    found = evaluate([audio], data=texts, out=tmp_path / "out", suite=suite)
    assert found["target"] == "label"
    cell = found["scores"]["mAP"]
    assert 0.8 < cell["model"]["mean"] < 1
    share = sum(len({*w.split(";")}) for w in words) / (3 * N)
    assert cell["chance"]["mean"] == pytest.approx(share)


def test_a_class_with_one_item_is_told(tmp_path, spoken, caplog):
    _, texts, x, _ = spoken
    words = ["bell", *["dog", "rain"] * (N // 2)][:N]
    audio = save(tmp_path / "few", {"last": x}, {"label": words})
    found = evaluate(
        [audio], data=texts, out=tmp_path / "out", suite="zero-shot", target="label"
    )
    assert found["few"] == 1
    assert "1 of 3 classes have one recording" in caplog.text


def test_texts_of_another_model_or_without_a_class_are_refused(tmp_path, spoken):
    _, texts, x, label = spoken
    words = np.array(["bell", "dog", "cat"])[label].tolist()
    audio = save(tmp_path / "cat", {"last": x}, {"label": words})
    with pytest.raises(NeuroFMError, match=r"1 classes of .* have no text .*'cat'"):
        evaluate(
            [audio], data=texts, out=tmp_path / "o", suite="zero-shot", target="label"
        )
    columns = {"label": ["bell"] * N}
    audio = save(tmp_path / "one", {"last": x}, columns, params_sha256="a")
    columns = {"label": ["bell", "dog"]}
    texts = save(tmp_path / "t", {"last": np.eye(2, 6)}, columns, params_sha256="b")
    with pytest.raises(NeuroFMError, match="embedded by another model than"):
        evaluate(
            [audio], data=texts, out=tmp_path / "o", suite="zero-shot", target="label"
        )


# ---- of any suite


def test_seeds_of_different_items_are_not_averaged(tmp_path, rng, gallery):
    folder, x, columns = gallery
    first = save(tmp_path / "q", {"last": x}, columns)
    items = [f"other{i}" for i in range(N)]
    second = save(tmp_path / "p", {"last": x}, columns, items=items)
    with pytest.raises(NeuroFMError, match="no seeds of one system"):
        evaluate(
            [first, second],
            data=folder,
            out=tmp_path / "o",
            suite="retrieval",
            target="segment",
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("kind = ", "cannot be read"),
        ('kind = "probes"', "has the kind 'probes'"),
        (
            'kind = "similarity"\nmeasure = ["cka"]',
            "no setting 'measure': did you mean",
        ),
        ('kind = "similarity"\nmax_items = "few"', "sets max_items = 'few'"),
        ('kind = "similarity"\nmeasures = ["ccc"]', "sets measures"),
        ('kind = "encoding"\ntarget = "x"', "no setting 'target'"),
        ('kind = "similarity"\nneighbours = 0', "greater than 0"),
        ('kind = "hear"\nn_configs = 0', "greater than 0"),
        ('kind = "retrieval"\nks = [1, -5]', "greater than 0"),
        ('kind = "similarity"\nmax_items = "9"', "sets max_items = '9'"),
        ('kind = "similarity"\nmax_items = true', "sets max_items = True"),
        ('kind = "crop-probe"\nshares = [nan, 0.5, 0.5]', "a finite number"),
    ],
)
def test_a_declared_suite_that_is_wrong_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NeuroFMError, match=words):
        declared.read(path)


def test_an_unknown_suite_names_its_nearest_neighbours(tmp_path):
    with pytest.raises(NeuroFMError, match="did you mean retrieval"):
        evaluate([tmp_path], out=tmp_path / "o", suite="retreival")


def test_suites_run_from_the_command_line(tmp_path, two_models):
    out = tmp_path / "out"
    asked = ["evaluate", *two_models, "--suite", "similarity", "--out", out, "--json"]
    done = CliRunner().invoke(cli, [str(a) for a in asked])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "scores.json").read_text())["suite"] == "similarity"
    asked = ["evaluate", two_models[0], "--suite", "similarity", "--out", out]
    done = CliRunner().invoke(cli, [*map(str, asked), "--split", "logo"])
    assert done.exit_code == 1
    assert "the suite similarity has no --split" in done.output
