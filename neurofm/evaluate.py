"""`neurofm evaluate`: runs a suite and writes what it found.

What is measured is told by the suite, by name or by a file that declares one:
`neurofm.suites`, and `neurofm.encoding.suite` for fMRI.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurofm import files, stores
from neurofm.encoding import suite as encoding
from neurofm.encoding import trained
from neurofm.errors import NeuroFMError
from neurofm.model import load
from neurofm.report import page as report
from neurofm.run.workdir import seen_by
from neurofm.suites import declared


def evaluate(
    given: Sequence[str | os.PathLike],
    *,
    out: str | os.PathLike,
    data: str | os.PathLike | None = None,
    suite: str | os.PathLike = "probe",
    target: str | None = None,
    groups: str | None = None,
    split: str | None = None,
    gap: float | None = None,
    stimulus: str | None = None,
    probe: str | None = None,
    label_counts: Sequence[int] | None = None,
    best_electrodes: int | None = None,
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    around: tuple[float, float] | None = None,
    delays: Sequence[float] | None = None,
    penalty: str | None = None,
    permutations: int | None = None,
    floor: float | None = None,
    subjects: Sequence[str] | None = None,
    atlas: str | os.PathLike | None = None,
    submit: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Score models or stored embeddings; writes OUT/scores.json and OUT/report.html.

    Args:
      given: models or embedding folders; several are seeds of one system, averaged.
      out: folder of the results.
      data: a prepared dataset, or a folder of sounds (prepared into OUT/records); of
        other suites what `docs/suites.md` says.
      suite: `probe`; `encoding`, where `given` are features or embeddings, set side by
        side, or one trained model of brains and its features, and `data` is fMRI;
        another suite, or a file that declares one: see
        `neurofm.suites.declared`.
      target, groups, split, gap, stimulus, around, probe, label_counts,
        best_electrodes: see `neurofm.suites.probe.Settings`.
      labels, pattern, subdirs: of a folder of sounds, see `neurofm prepare`.
      delays, penalty, permutations, floor, subjects, atlas, submit: of the suite
        `encoding`, see `neurofm.encoding.suite.evaluate`.

    Returns:
      What is written: suite, data, target, groups, split, metric, over, left_out,
      differences, and `scores`: `model`, `untrained`, `baseline`, each baseline by its
      name and `chance` -> mean, std, n and more, see `neurofm.eval.scores.compare`.

    Raises:
      NeuroFMError: what was given cannot be scored, and why.
    """
    chosen = declared.read(suite)
    if not given:
        raise NeuroFMError("nothing was given to score: name a model or embeddings")
    of_probe = {"target": target, "groups": groups, "split": split, "around": around}
    of_probe |= {"gap": gap, "stimulus": stimulus, "probe": probe}
    of_probe |= {"label_counts": label_counts, "best_electrodes": best_electrodes}
    of_probe |= {"labels": labels, "pattern": pattern, "subdirs": subdirs}
    of_encoding = {"delays": delays, "penalty": penalty, "floor": floor}
    of_encoding |= {"permutations": permutations, "subjects": subjects}
    of_encoding |= {"atlas": atlas, "submit": submit}
    chosen = _with_options(chosen, {**of_probe, **of_encoding})
    out, places = Path(out), [stores.place(path) for path in given]
    at, own = None if data is None else stores.place(data), chosen.settings
    asked = {"suite": chosen.name, "given": [str(path) for path in given]}
    if chosen.kind == "encoding":
        if at is None:
            raise NeuroFMError(
                f"the suite {chosen.name} needs what is to be predicted: name it as "
                "--data"
            )
        return _finish({**asked, **_encoding(places, at, out, own)}, out)
    asked |= {name: own.get(name) for name in ("target", "groups")}
    if chosen.kind != "probe":
        asked |= {"kind": chosen.kind, "settings": own}
    return _finish({**asked, **declared.evaluate(chosen, places, at, out)}, out)


def _with_options(suite: declared.Suite, options: Mapping[str, Any]) -> declared.Suite:
    known = declared.settings(suite.kind)
    given = {name: value for name, value in options.items() if value is not None}
    if wrong := [name for name in given if name not in known]:
        raise NeuroFMError(f"the suite {suite.name} has no --{wrong[0]}: leave it out")
    return declared.with_options(suite, **given)


def _encoding(
    given: list[stores.Place], data: stores.Place, out: Path, own: Mapping[str, Any]
) -> dict[str, Any]:
    """Features by a ridge; of a trained model and its features what it predicts."""
    made = ("dataset.json", "embeddings.json")
    models = [p for p in given if not any((p / name).is_file() for name in made)]
    if not models or not all(path.is_dir() for path in models):
        return encoding.evaluate(given, data, out, **own)
    if len(models) > 1 or len(models) == len(given):
        raise NeuroFMError(
            f"the suite encoding was given {len(models)} models and "
            f"{len(given) - len(models)} features: give features alone, or one model "
            "and the features of all its modalities"
        )
    (path,) = models
    features = [each for each in given if each != path]
    return trained.evaluate(load(path), seen_by(path), features, data, out, **own)


def _finish(result: dict[str, Any], out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "scores.json", result)
    report.render([out], out / "report.html")
    return result
