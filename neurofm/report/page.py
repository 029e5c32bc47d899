"""`neurofm report`: one self-contained HTML page about runs, models and scores.

Or their tables as Markdown.

A folder brings what it has; nothing of it is required alone:

    config.json     configuration
    env.json        environment
    metrics.jsonl   curves, and what went wrong in them
    scores.json     scores: name -> {mean, std, n, low, high}, or task -> such a map;
                    `differences` alike; `over_steps`: name -> points
                    {step, mean, low, high}; `over_labels`: the same with `labels`
    examples.parquet  scores of every example, to pair folders of one split
    figures/*.png   figures, each with its caption in a `.txt` beside it
    log.txt         lines with WARNING or ERROR
    pretrained_on.txt   sha256 of the recordings that training could show
"""

import base64
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofm import files, stores
from neurofm.errors import NeuroFMError
from neurofm.report import markdown, pairs
from neurofm.report.curves import CURVES, Curves, draw_curves
from neurofm.report.tables import (
    malformed,
    over_labels,
    overview,
    provenance,
    score_tables,
    side_by_side,
    systems,
    total_steps,
)
from neurofm.run.metrics import Row, read_rows

ENDS = {"mean": "", "low": "/low", "high": "/high"}  # of `over_steps`, in a curve
GRAD_GROUP = "optim/grad_norm/"
LONG_WAIT = 0.2  # share of the time; above, the loader is the bottleneck
COLLAPSE = 0.1  # share of the first variance between items that deserves a word


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder as the report shows it; see the module docstring."""

    name: str
    config: dict[str, Any]
    env: dict[str, Any]
    scores: dict[str, Any]
    rows: list[Row]
    figures: list[stores.Place]
    log_warnings: list[str]
    n_seen: int


def render(
    runs: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> stores.Place:
    """Write the report of one folder, or of several side by side, to `out`.

    A name that ends in `.md` gets the tables alone, as Markdown.

    Raises:
      NeuroFMError: a folder holds nothing to report, or a file in it is broken.
    """
    paths = [stores.place(run) for run in runs]
    if not paths:
        raise NeuroFMError("there is nothing to report: give the folder of a run")
    sources = [read(p, name) for p, name in zip(paths, _names(paths), strict=True)]
    out = stores.place(out)
    names = [source.name for source in sources]
    numbers = overview([s.rows for s in sources], [s.config for s in sources])
    scores = score_tables([source.scores for source in sources])
    made_of = provenance(
        [source.config for source in sources],
        [source.env for source in sources],
        [source.scores for source in sources],
        [source.n_seen for source in sources],
    )
    beside = pairs.pairs(names, paths, [source.scores for source in sources])
    if out.suffix == ".md":
        few = over_labels([source.scores for source in sources])
        about = [
            ("By training labels of each class (of numbers, in all)", few),
            ("At the last logged step", numbers),
            ("What it is made of", made_of),
        ]
        page = markdown.tables(names, scores, beside, about)
    else:
        page = _html(sources, numbers, scores, beside, made_of)
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(out, page)
    return out


def _html(
    sources: Sequence[Source],
    numbers: list[tuple[str, list[str]]],
    scores: list[dict[str, Any]],
    beside: list[tuple[str, list[str]]],
    made_of: list[tuple[str, list[str]]],
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_name = {source.name: source.rows for source in sources}

    def drawn(curves: Curves, rows: dict[str, list[Row]]) -> tuple[Curves, str] | None:
        svg = draw_curves(curves, rows)
        # Markup goes into the page as it is: draw_curves escaped the names in it.
        return None if svg is None else (curves, Markup(svg))

    return env.get_template("report.html.j2").render(
        names=[source.name for source in sources],
        overview=numbers,
        scores=scores,
        made_of=made_of,
        beside=beside,
        pairs=pairs,
        score_curves=[d for asked in score_curves(sources) if (d := drawn(*asked))],
        curves=[d for c in _curves(sources) if (d := drawn(c, by_name))],
        figures=[figure for source in sources for figure in _embedded(source)],
        warnings=[(source.name, warnings(source)) for source in sources],
        config=side_by_side([source.config for source in sources]),
        environment=side_by_side([source.env for source in sources]),
    )


def read(path: stores.Place, name: str) -> Source:
    """What a folder has to show.

    Raises:
      NeuroFMError: it has nothing, or a file of it is broken.
    """
    scores = _json(path / "scores.json")
    if (where := malformed(scores)) is not None:
        raise NeuroFMError(
            f"{path / 'scores.json'} holds under {where} what is no score (numbers "
            "mean, std, n, low and high): evaluate again, or move the file away"
        )
    source = Source(
        name=name,
        config=_json(path / "config.json"),
        env=_json(path / "env.json"),
        scores=scores,
        rows=read_rows(path / "metrics.jsonl"),
        figures=sorted((path / "figures").glob("*.png")),
        log_warnings=_log_warnings(path / "log.txt"),
        n_seen=_n_lines(path / "pretrained_on.txt"),
    )
    if not (source.config or source.scores or source.rows):
        raise NeuroFMError(
            f"{path} holds nothing to report: give the folder of a run or model "
            "(config.json, metrics.jsonl) or of an evaluation (scores.json)"
        )
    return source


def warnings(source: Source) -> list[str]:
    """What a reader of the curves should know, then the warnings of the log."""
    found = []
    steps = [row["step"] for row in source.rows]
    total = total_steps(source.config)
    if steps and total and max(steps) < total:
        found.append(f"The run stopped at step {max(steps):,.0f} of {total:,}.")
    for row in source.rows:
        if bad := sorted(k for k, v in row.items() if not math.isfinite(v)):
            found.append(f"Step {row['step']:,.0f}: {', '.join(bad)} not finite.")
    spread = [r["monitor/item_var"] for r in source.rows if "monitor/item_var" in r]
    if spread and spread[-1] < COLLAPSE * spread[0]:
        found.append(
            f"The variance of the targets between items fell from {spread[0]:.3g} to "
            f"{spread[-1]:.3g}: look for collapse before trusting the loss."
        )
    waits = sorted(r["time/data_wait"] for r in source.rows if "time/data_wait" in r)
    if waits and (median := waits[len(waits) // 2]) > LONG_WAIT:
        found.append(
            f"Steps waited for data {median:.0%} of the time: raise data.workers, or "
            "put the dataset on a faster disk."
        )
    for name, cell in systems(source.scores.get("scores", {})):
        if cell.get("transductive"):
            found.append(f"{name}: pretraining has seen test items (transductive).")
    return found + source.log_warnings


def _curves(sources: Sequence[Source]) -> Iterator[Curves]:
    """The curves of all runs; gradients by group where there is a single run."""
    for curves in CURVES:
        yield curves
        if curves.title == "Gradient norm" and len(sources) == 1:
            names = {k for row in sources[0].rows for k in row if GRAD_GROUP in k}
            yield Curves(
                title="Gradient norm by group",
                axis=curves.axis,
                keys={name: name.removeprefix(GRAD_GROUP) for name in sorted(names)},
                caption="The same for each group of parameters.",
                log=True,
            )


def score_curves(
    sources: Sequence[Source],
) -> Iterator[tuple[Curves, dict[str, list[Row]]]]:
    """Scores as pretraining went on, and over how many labels a probe has."""
    for part, at, along, caption in (
        (
            "over_steps",
            "step",
            "step",
            "Score of the frozen network on held-out items as pretraining went on, "
            "with its interval.",
        ),
        (
            "over_labels",
            "labels",
            "label",
            "Score on all test items of probes that had so many training labels of "
            "each class (of numbers, in all), mean over draws, with its interval.",
        ),
    ):
        rows = {
            source.name: [
                {"step": point[at]}
                | {f"{name}{end}": point[k] for k, end in ENDS.items() if k in point}
                for name, points in source.scores.get(part, {}).items()
                for point in points
            ]
            for source in sources
        }
        names = {name for s in sources for name in s.scores.get(part, {})}
        keys = {name: name for name in sorted(names)}
        title = f"Score over {along}s"
        curves = Curves(
            title=title, axis="score", keys=keys, caption=caption, along=along
        )
        yield curves, rows


def _embedded(source: Source) -> Iterator[dict[str, str]]:
    for path in source.figures:
        told = path.with_suffix(".txt")
        caption = path.stem.replace("_", " ")
        if told.is_file():
            caption = told.read_bytes().decode(errors="replace")
        data = base64.b64encode(path.read_bytes()).decode()
        yield {"run": source.name, "caption": caption.strip(), "data": data}


def _names(paths: Sequence[stores.Place]) -> list[str]:
    """Folder names, with as many parents as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise NeuroFMError("the same folder was given twice: name each once")


def _json(path: stores.Place) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        obj = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise NeuroFMError(
            f"{path} is not valid JSON ({error}): write it again"
        ) from None
    if not isinstance(obj, dict):
        raise NeuroFMError(f"{path} holds no JSON object: write it again")
    return obj


def _n_lines(path: stores.Place) -> int:
    return len(path.read_bytes().splitlines()) if path.is_file() else 0


def _log_warnings(path: stores.Place) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_bytes().decode(errors="replace").splitlines()
    told = [line.strip() for line in lines if re.search(r"\b(WARNING|ERROR)\b", line)]
    return list(dict.fromkeys(told))
