"""The report: one page that needs nothing else, and says what went wrong."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.errors import NeuroFMError
from neurofm.report.curves import Curves, draw_curves
from neurofm.report.page import read, render, score_curves, warnings
from neurofm.report.spectrogram import save_png, spans, spectrogram_with_masks
from neurofm.report.tables import score_tables, side_by_side
from neurofm.run.metrics import MetricsLog

VOID = {"meta", "img", "link", "br", "hr", "input"}
SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Reads a page strictly: every tag closed, in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.html = path.read_text()
        self.feed(self.html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def make_run(folder: Path, seed: int = 0, steps: int = 60) -> Path:
    """A finished run of 60 steps, with everything a report can show."""
    folder.mkdir(parents=True)
    config = {
        "task": {"name": "wavjepa", "width": 128},
        "data": {"path": f"records {EVIL}"},
        "train": {"steps": 60},
        "seed": seed,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "env.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}}))
    log = MetricsLog(folder / "metrics.jsonl")
    for step in range(10, steps + 1, 10):
        log.append({"step": step, "eval/loss": 2 / step})
        log.append(
            {
                "step": step,
                "train/loss": 1 / step,
                "optim/lr": 1e-3,
                "optim/grad_norm": 2.0,
                "optim/grad_norm/encoder": 1.5,
                "monitor/target_var": 1.0,
                "monitor/item_var": 0.3,
                "monitor/effective_rank": 12.0,
                "time/data_wait": 0.01,
                "time/hours": step / 100,
                "throughput/examples_per_s": 1234.5,
                "throughput/hours_per_s": 0.5,
            }
        )
    cell = {"mean": 0.6123, "std": 0.0149, "n": 1200, "low": 0.58, "high": 0.64}
    points = [{"step": s, "mean": s / 100, "low": 0, "high": 1} for s in (0, 30, 60)]
    scores = {
        "suite": "probe",
        "target": "class",
        "metric": "accuracy",
        "over": "groups",
        "scores": {
            "chance": {**cell, "mean": 1 / 12},
            "untrained": cell,
            "model": cell,
        },
        "differences": {"model-untrained": {"mean": 0.18, "low": 0.15, "high": 0.21}},
        "over_steps": {"model": points},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "log.txt").write_text(f"INFO fine\nWARNING 3 clips {EVIL}\n")
    wave = np.sin(np.arange(4000) / 5).astype(np.float32)
    mask = np.arange(50) % 20 < 7
    figure = spectrogram_with_masks(wave, 8000, mask, ~mask[None], 0.01)
    save_png(figure, folder / "figures" / "item_1.png", f"A glide {EVIL}")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(render([run], run / "report.html"))


def test_the_page_needs_nothing_but_itself(page):
    assert not page.all("script") + page.all("link") + page.all("iframe")
    for attrs in page.all("img"):
        assert attrs["src"].startswith("data:image/png;base64,")
    for _, attrs in page.tags:
        for name in ("href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#")
    assert "@import" not in page.html
    assert "url(http" not in page.html


def test_what_files_say_stays_text(page):
    assert "<script" not in page.html
    assert page.text.count(EVIL) == 3  # config, log and caption


def test_the_page_shows_every_part_of_a_run(page):
    for words in (
        "60 of 60",
        "61.2 ± 1.5 % [58.0, 64.0], n = 1,200",
        "difference model-untrained",
        "18.0 % [15.0, 21.0]",
        "1,234.5",
        "task.width",
        "versions.jax",
        "36 min",
    ):
        assert words in page.text
    titles = [
        "Score over steps",
        "Loss",
        "Spread of the targets",
        "Effective rank",
        "Gradient norm",
        "Gradient norm by group",
        "Learning rate",
        "Throughput",
        "Data wait",
    ]
    drawn = [attrs["aria-label"] for attrs in page.all("svg")]
    assert [label.split(":")[0] for label in drawn] == titles


def test_every_picture_has_words_and_every_table_a_caption(page):
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all(attrs["role"] == "img" for attrs in page.all("svg"))
    n_figures, n_tables = len(page.all("figure")), len(page.all("table"))
    assert len(page.all("figcaption")) == n_figures == 10
    assert len(page.all("caption")) == n_tables == 4
    assert page.all("html") == [{"lang": "en"}]


def test_drawings_take_the_colour_of_the_page(page):
    assert "currentColor" in page.html
    assert "#010203" not in page.html
    assert "prefers-color-scheme: dark" in page.html


def test_every_target_of_a_link_is_there_once(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    sections = [i for i in ids if i.isalpha()]
    wanted = [a["href"][1:] for a in page.all("a")]
    assert wanted == ["scores", "training", "figures", "configuration", "environment"]
    assert all(sections.count(name) == 1 for name in wanted)


def test_several_runs_stand_side_by_side(run, tmp_path):
    other = make_run(tmp_path / "second", seed=1)
    page = Page(render([run, other], tmp_path / "both.html"))

    assert page.text.count("61.2 ± 1.5 %") == 4
    (loss,) = [s for s in svgs(page) if "Loss" in s.attrib["aria-label"]]
    words = [text.text for text in loss.iter(f"{SVG}text")]
    for label in ("first training", "second training", "first held out"):
        assert label in words
    marked = page.html.count('class="differs"')
    assert marked == 1  # the seed


def svgs(page: Page) -> list[ElementTree.Element]:
    pieces = page.html.split("<svg ")[1:]
    whole = ["<svg " + piece.split("</svg>")[0] + "</svg>" for piece in pieces]
    return [ElementTree.fromstring(svg) for svg in whole]


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    a, b = (render([run], tmp_path / name) for name in ("a.html", "b.html"))
    assert a.read_bytes() == b.read_bytes()


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    runs = [make_run(tmp_path / seed / "run") for seed in ("s0", "s1")]
    page = Page(render(runs, tmp_path / "r.html"))
    assert "s0/run" in page.text
    assert "s1/run" in page.text
    with pytest.raises(NeuroFMError, match="given twice"):
        render([runs[0], runs[0]], tmp_path / "r.html")


def test_a_folder_shows_what_it_has(tmp_path):
    (tmp_path / "config.json").write_text('{"task": {"name": "wavjepa"}}')
    page = Page(render([tmp_path], tmp_path / "report.html"))
    assert "task.name" in page.text
    assert not page.all("svg")


def test_what_cannot_be_reported_is_a_user_error(tmp_path):
    with pytest.raises(NeuroFMError, match="nothing to report"):
        render([], tmp_path / "r.html")
    with pytest.raises(NeuroFMError, match="nothing to report"):
        render([tmp_path], tmp_path / "r.html")
    (tmp_path / "scores.json").write_text("{broken")
    with pytest.raises(NeuroFMError, match="not valid JSON"):
        render([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


CELL = {"mean": 0.5, "std": 0.1, "n": 9, "low": 0.4, "high": 0.6}
WHOLE = {
    "suite": "probe",
    "metric": "accuracy",
    "scores": {"model": CELL, "by task": {"pitch": CELL, "more": {"deep": CELL}}},
    "differences": {"model-untrained": {"mean": 0.1, "low": 0.0, "high": 0.2}},
    "over_steps": {"model": [{"step": 1, "mean": 0.5, "low": 0.4, "high": 0.6}]},
    "over_labels": {"model": [{"labels": 5, "mean": 0.5, "low": 0.4, "high": 0.6}]},
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def paths(tree, above=()):
    """Where anything lies in nested dicts and lists."""
    yield above
    places = enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in tree.items() if isinstance(tree, dict) else places:
        yield from paths(inner, (*above, key))


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from([p for p in paths(WHOLE) if p]), value=anything)
def test_scores_that_are_none_are_one_sentence_or_shown(tmp_path_factory, place, value):
    changed = json.loads(json.dumps(WHOLE))
    node = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    folder = tmp_path_factory.mktemp("scores")
    (folder / "scores.json").write_text(json.dumps(changed))
    try:
        source = read(folder, "run")
    except NeuroFMError as error:
        told = str(error)
    else:
        warnings(source)
        assert len(score_tables([source.scores])) == 1
        for _, rows in score_curves([source]):
            assert isinstance(rows["run"], list)
        return
    assert place[0] in told
    assert "\n" not in told


def test_whole_scores_are_shown(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(WHOLE))
    text = Page(render([tmp_path], tmp_path / "r.html")).text
    assert "by task: more: deep" in text
    assert text.count("50.0 ± 10.0 % [40.0, 60.0], n = 9") == 3
    assert "Score over labels" in text


@pytest.mark.parametrize(
    "wrong", [{"scores": [1]}, {"scores": {"model": {"mean": None}}}, {"over_steps": 3}]
)
def test_scores_that_are_none_are_named(tmp_path, wrong):
    (tmp_path / "scores.json").write_text(json.dumps(WHOLE | wrong))
    with pytest.raises(NeuroFMError, match="what is no score") as error:
        render([tmp_path], tmp_path / "r.html")
    assert next(iter(wrong)) in str(error.value)


def test_a_torn_line_of_metrics_is_left_out_with_a_word(tmp_path, caplog):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 1e999}\n{"step": 70, "train/lo')
    Page(render([run], tmp_path / "r.html"))
    assert "left out 3 broken lines" in caplog.text
    assert max(row["step"] for row in read(run, "run").rows) == 60


@pytest.mark.parametrize("train", [[1], {"steps": "many"}, {"steps": None}, None])
def test_a_config_of_another_shape_is_shown_as_it_is(tmp_path, train):
    run = make_run(tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"train": train, "x": {}}))
    Page(render([run], tmp_path / "r.html"))


def test_the_warnings_say_what_went_wrong(tmp_path):
    run = make_run(tmp_path / "run", steps=40)
    log = MetricsLog(run / "metrics.jsonl")
    bad = {"monitor/item_var": 0.02, "time/data_wait": 0.5}
    for step in range(41, 55):
        log.append({"step": step, **bad})
    log.append({"step": 55, "train/loss": math.nan})
    scores = json.loads((run / "scores.json").read_text())
    scores["scores"]["model"]["transductive"] = True
    (run / "scores.json").write_text(json.dumps(scores))

    told = "\n".join(warnings(read(run, "run")))

    assert "stopped at step 55 of 60" in told
    assert "Step 55: train/loss not finite" in told
    assert "fell from 0.3 to 0.02" in told
    assert "waited for data 50% of the time" in told
    assert "model: pretraining has seen test items" in told
    assert "WARNING 3 clips" in told
    Page(render([run], tmp_path / "r.html"))


def test_a_healthy_run_has_only_the_warnings_of_its_log(run):
    assert warnings(read(run, "run")) == [f"WARNING 3 clips {EVIL}"]


def test_scores_of_several_tasks_are_rows_of_one_table():
    cell = {"mean": 0.5}
    scores = {
        "metric": "r2",
        "scores": {"pitch": {"model": cell}, "onset": {"x": cell}},
    }
    (table,) = score_tables([{}, scores])
    assert table["rows"] == {"pitch: model": ["", "0.500"], "onset: x": ["", "0.500"]}


def test_settings_that_differ_are_marked():
    rows = side_by_side([{"a": {"b": 1, "c": [1]}}, {"a": {"b": 1}, "d": None}])
    assert rows == [
        {"key": "a.b", "cells": ["1", "1"], "differs": False},
        {"key": "a.c", "cells": ["[1]", ""], "differs": True},
        {"key": "d", "cells": ["", "null"], "differs": True},
    ]


def test_a_name_with_markup_stays_a_name_in_a_drawing():
    curves = Curves(title='A "<b>"', axis="<i> & y", keys={"k": EVIL}, caption="")
    svg = draw_curves(curves, {EVIL: [{"step": 1, "k": 2.0}]})
    tree = ElementTree.fromstring(svg)
    assert tree.attrib["aria-label"] == 'A "<b>": <i> & y over steps'
    assert "<script" not in svg
    assert [t.text for t in tree.iter(f"{SVG}text")].count(EVIL) == 1


def test_values_that_no_logarithm_takes_are_drawn_all_the_same():
    curves = Curves(title="t", axis="y", keys={"k": ""}, caption="", log=True)
    for values in ([0.0, 0.0], [math.nan, math.nan], [-1.0, 2.0]):
        rows = [{"step": i, "k": v} for i, v in enumerate(values)]
        assert draw_curves(curves, {"run": rows}) is not None
    assert draw_curves(curves, {"run": [{"step": 1}]}) is None


@given(st.lists(st.booleans(), max_size=12))
def test_spans_are_the_runs_of_true(bits):
    rebuilt = np.zeros(len(bits), bool)
    found = spans(np.array(bits, bool))
    for start, length in found:
        assert length > 0
        assert not rebuilt[
            max(0, start - 1) : start + length
        ].any()  # maximal, disjoint
        rebuilt[start : start + length] = True
    assert rebuilt.tolist() == bits


def test_the_spectrogram_puts_a_tone_and_its_masks_where_they_belong():
    sfreq, hop_s = 8000, 0.1
    wave = np.sin(2 * np.pi * 1000 * np.arange(8000) / sfreq).astype(np.float32)
    wave[:4000] = 0
    context = np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 0], bool)
    targets = np.array([[0, 0, 1, 1, 0, 0, 0, 0, 0, 0], [0] * 7 + [1, 1, 1]], bool)

    figure = spectrogram_with_masks(wave, sfreq, context, targets, hop_s)

    above, below = figure.axes
    (image,) = above.images
    shown = np.asarray(image.get_array())
    left, right, *_ = image.get_extent()
    _, column = np.unravel_index(shown.argmax(), shown.shape)
    assert left + (column + 0.5) * (right - left) / shown.shape[1] > 0.49
    band = shown[:, -1].argmax() + 0.5
    kilohertz = dict(zip(above.get_yticks(), above.get_yticklabels(), strict=True))
    nearest = min(kilohertz, key=lambda place: abs(place - band))
    assert kilohertz[nearest].get_text() == "1"
    assert abs(nearest - band) < 1.5
    veils = [patch.get_extents() for patch in above.patches]
    assert len(veils) == 2
    bars = [
        [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in row.get_paths()]
        for row in below.collections
    ]
    np.testing.assert_allclose(bars[0], [(0, 0.2), (0.5, 0.6)])
    np.testing.assert_allclose(bars[1], [(0.2, 0.4)])
    np.testing.assert_allclose(bars[2], [(0.7, 1.0)])
    names = [label.get_text() for label in below.get_yticklabels()]
    assert names == ["context", "targets 1", "targets 2"]


def test_silence_has_a_spectrogram_too(tmp_path):
    mask = np.ones(5, bool)
    figure = spectrogram_with_masks(
        np.zeros(4000, np.float32), 8000, mask, mask[None], 0.1
    )
    save_png(figure, tmp_path / "silence.png", "nothing")
    assert (tmp_path / "silence.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["silence.png", "silence.txt"]


def test_the_tables_come_as_markdown_too(run, tmp_path):
    other = make_run(tmp_path / "a|b <i>", seed=1)
    (other / "pretrained_on.txt").write_text("1" * 64 + "\n" + "2" * 64 + "\n")
    out = render([run, other], tmp_path / "tables.md")
    lines = [line for line in out.read_text().splitlines() if line]
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    head = next(line for line in rows if "a\\|b" in line)
    assert "&lt;i>" in head
    whole = dict(line.strip("| ").split(" | ", 1) for line in rows if line[2] != " ")
    assert whole["recordings in training"].split(" | ") == ["", "2"]
    scores = score_tables([read(run, "r").scores])[0]["rows"]
    for name, (cell,) in scores.items():
        assert cell in whole[name.replace("_", "\\_")]
