"""The tables of a report: what folders have to say, side by side."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from neurofm.run.clock import duration
from neurofm.run.metrics import Row

# Systems of a score table, in the order they are compared.
SYSTEMS = ("model", "untrained", "baseline", "supervised")


def overview(
    logs: Sequence[Sequence[Row]], configs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
    """The few numbers one looks for first: (name, a cell a run)."""

    def last(key: str, words: Callable[[float], str]) -> list[str]:
        found = [[row[key] for row in rows if key in row] for rows in logs]
        return [words(values[-1]) if values else "" for values in found]

    steps = last("step", "{:,.0f}".format)
    for i, config in enumerate(configs):
        if steps[i] and (total := total_steps(config)):
            steps[i] += f" of {total:,}"
    table = [
        ("parameters", last("model/params", "{:,.0f}".format)),
        ("steps", steps),
        ("loss", last("train/loss", "{:.4f}".format)),
        ("held-out loss", last("eval/loss", "{:.4f}".format)),
        ("examples per second", last("throughput/examples_per_s", "{:,.1f}".format)),
        ("hours of signal per second", last("throughput/hours_per_s", "{:.3g}".format)),
        ("hours of signal seen", last("data/hours", "{:,.1f}".format)),
        ("FLOP in all", last("throughput/flops_total", "{:.3g}".format)),
        ("FLOP per second", last("throughput/flops_per_s", "{:.3g}".format)),
        ("share of the peak (MFU)", last("throughput/mfu", "{:.1%}".format)),
        ("data wait", last("time/data_wait", "{:.1%}".format)),
        ("time", last("time/hours", lambda hours: duration(3600 * hours))),
        ("peak of device memory", last("memory/peak_gib", "{:.2f} GiB".format)),
        (
            "since the first start",
            last("time/wall_hours", lambda hours: duration(3600 * hours)),
        ),
        ("of it in steps", last("time/goodput", "{:.0%}".format)),
        ("compiling", last("time/badput/compile", "{:.0%}".format)),
        ("waiting for data", last("time/badput/wait", "{:.0%}".format)),
        ("evaluating", last("time/badput/eval", "{:.0%}".format)),
        ("saving", last("time/badput/checkpoint", "{:.0%}".format)),
        ("starting", last("time/badput/start", "{:.0%}".format)),
        ("lost to restarts", last("time/badput/lost", "{:.0%}".format)),
    ]
    return [(name, cells) for name, cells in table if any(cells)]


def provenance(
    configs: Sequence[Mapping[str, Any]],
    envs: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
    n_seen: Sequence[int],
) -> list[tuple[str, list[str]]]:
    """What each folder was made of: (name, a cell a folder).

    Args:
      n_seen: how many recordings training could show; 0 where that is not known.
    """

    def short(digests: Any) -> str:
        words = [digests] if isinstance(digests, str) else digests
        return ", ".join(str(word)[:12] for word in words or ())

    def found(tree: Mapping[str, Any], *path: str) -> Any:
        for name in path:
            tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
        return tree or ""

    def begun(config: Mapping[str, Any]) -> str:
        frozen = found(config, "init", "frozen")
        others = [str(v) for v in frozen.values()] if isinstance(frozen, dict) else []
        return ", ".join([p for p in [found(config, "init", "path")] if p] + others)

    given = [found(score, "given") for score in scores]
    table = [
        ("trained on the datasets", [short(found(env, "datasets")) for env in envs]),
        ("recordings in training", [f"{n:,}" if n else "" for n in n_seen]),
        ("starts from", [begun(config) for config in configs]),
        ("weights", [short(found(config, "sha256", "params")) for config in configs]),
        ("scores of", [", ".join(g) if isinstance(g, list) else "" for g in given]),
        ("scored on", [short(found(score, "data", "hash")) for score in scores]),
        ("neurofm", [str(found(env, "versions", "neurofm")) for env in envs]),
    ]
    return [(name, cells) for name, cells in table if any(cells)]


def total_steps(config: Mapping[str, Any]) -> int | None:
    """How long a run was meant to be, where its configuration says so."""
    train = config.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    return steps if isinstance(steps, int) else None


def score_tables(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table a suite, target and metric: caption, over, and name -> a cell a source.

    Args:
      scores: what the `scores.json` of each source holds; empty where there is none.
    """
    tables: dict[str, dict[str, Any]] = {}
    for i, found in enumerate(scores):
        if not found:
            continue
        metric = str(found.get("metric", "score"))
        about = [str(found[k]) for k in ("suite", "target") if found.get(k)]
        caption = ", ".join([*about, metric])
        empty = {"caption": caption, "over": found.get("over", ""), "rows": {}}
        table = tables.setdefault(caption, empty)
        for prefix, part in (("", "scores"), ("difference ", "differences")):
            for name, cell in systems(found.get(part, {})):
                cells = table["rows"].setdefault(prefix + name, [""] * len(scores))
                cells[i] = _score(cell, percent=metric.endswith("accuracy"))
    return list(tables.values())


def over_labels(scores: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of scores over how many labels a probe has, a cell a source.

    Args:
      scores: what the `scores.json` of each source holds.
    """
    rows: dict[str, list[str]] = {}
    for i, found in enumerate(scores):
        percent = str(found.get("metric", "")).endswith("accuracy")
        for name, points in found.get("over_labels", {}).items():
            for point in points:
                row = f"{name}, {point['labels']} labels"
                cells = rows.setdefault(row, [""] * len(scores))
                cells[i] = _score(point, percent)
    return list(rows.items())


def side_by_side(trees: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table: dotted key, a cell a tree, and whether the cells differ."""
    flat = [dict(_flat(tree)) for tree in trees]
    keys = dict.fromkeys(key for tree in flat for key in tree)
    return [
        {
            "key": key,
            "cells": (cells := [tree.get(key, "") for tree in flat]),
            "differs": len(set(cells)) > 1,
        }
        for key in keys
    ]


def systems(scores: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and cells of a score map, of one task or of several, in a fixed order."""

    def rank(name: str) -> tuple[int, int]:
        known = SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS)
        return (name == "chance", known)

    for name in sorted(scores, key=rank):
        if "mean" in scores[name]:
            yield name, scores[name]
        else:
            yield from ((f"{name}: {sub}", c) for sub, c in systems(scores[name]))


def malformed(found: Mapping[str, Any]) -> str | None:
    """Where the content of a `scores.json` is not what tables and curves show, if so.

    It may lack any part, and hold more than they show.
    """
    for part in ("scores", "differences"):
        if (where := _malformed_map(found.get(part, {}))) is not None:
            return " ".join(f"{part}{where}".split())  # a name may hold line breaks
    for part, at in (("over_steps", "step"), ("over_labels", "labels")):
        over = found.get(part, {})
        if not isinstance(over, dict):
            return part
        for name, points in over.items():
            if not isinstance(points, list) or not all(
                _numbers(point, (at,), ("mean", "low", "high")) for point in points
            ):
                return " ".join(f"{part}.{name}".split())
    return None


def _malformed_map(tree: Any) -> str | None:
    if not isinstance(tree, dict):
        return ""
    for name, cell in tree.items():
        if isinstance(cell, dict) and "mean" not in cell:
            if (below := _malformed_map(cell)) is not None:
                return f".{name}{below}"
        elif not _numbers(cell, ("mean",), ("std", "n", "low", "high")) or (
            ("low" in cell) != ("high" in cell)
        ):
            return f".{name}"
    return None


def _numbers(obj: Any, needed: Sequence[str], known: Sequence[str]) -> bool:
    """Whether `obj` holds numbers under all `needed` names and such `known` it has."""
    return isinstance(obj, dict) and all(
        isinstance(obj.get(name), int | float)
        for name in (*needed, *(name for name in known if name in obj))
    )


def _score(cell: Mapping[str, Any], percent: bool) -> str:
    def number(x: float) -> str:
        return f"{100 * x:.1f}" if percent else f"{x:.3f}"

    words = number(cell["mean"]) + (" %" if percent else "")
    if "std" in cell:
        words = f"{number(cell['mean'])} ± {number(cell['std'])}" + " %" * percent
    if "low" in cell:
        words += f" [{number(cell['low'])}, {number(cell['high'])}]"
    return words + (f", n = {cell['n']:,}" if "n" in cell else "")


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values in words."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{key}", text
