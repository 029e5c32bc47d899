"""Brain-tuning on simulated listeners: mechanics, with no claim about brains.

    python benchmarks/brain_tuning.py --out DIR [--seed 0] [--steps 400] [--epochs 6]
        [--regime last]

A small WavJEPA is pretrained on generated sounds and tuned on a person's regions that
follow the class, the pitch or nothing of the sounds in stories (ceilings 0.4 to 0.8):
once on the person's responses and once on each control, volumes or blocks of volumes
in another order. Then, for each of these and for the model before: how well its
embeddings predict the regions on stories never heard (the suite `encoding`), by what
they follow, and a linear probe of the twelve classes on clips in other rooms and noises
(240 of each split). Every step is a command that a user has; the newest checkpoint is
taken, so that a control is trained as long. Rows go to DIR/scores.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.eval import examples as exampling
from neurofm.eval.baselines import log_mel_candidates
from neurofm.eval.features import network_pools, vectors
from neurofm.eval.scores import probe_all
from neurofm.model import load
from neurofm.simulate import listeners, sounds
from neurofm.suites.entrants import network

STORIES = {"train": 8, "valid": 1, "test": 3}
VOLUMES = 100
STREAM, CLIPS = 1_200, 240
TUNED = {"responses": "none", "volumes": "volumes", "blocks": "blocks"}


def neurofm(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "neurofm", *map(str, arguments), "--json"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


# ---- data ----------------------------------------------------------------------------


def generate(out: Path, seed: int) -> None:
    """Stores of clips to pretrain on, clips with classes, stories, and responses."""
    info = DatasetInfo(
        kind="audio", sfreq=float(sounds.SFREQ), unit="full_scale", ch_names=("mono",)
    )

    def clips():
        for start in range(0, STREAM, 120):
            waves, _ = sounds.generate(120, seed, "stream", start)
            for i, wave in enumerate(waves, start):
                yield Recording(item=f"clip_{i}", samples=wave[None], meta={})

    def labelled():
        for part in ("train", "valid", "test"):
            waves, labels = sounds.generate(CLIPS, seed, part)
            assert labels is not None
            for i, wave in enumerate(waves):
                meta = {"split": part, "sound": sounds.CLASSES[labels[i]]}
                yield Recording(item=f"{part}_{i}", samples=wave[None], meta=meta)

    parts = [part for part, n in STORIES.items() for _ in range(n)]
    heard = [listeners.story(seed, i, VOLUMES) for i in range(len(parts))]
    told = [
        Recording(item=f"story_{i}", samples=s.wave[None], meta={})
        for i, s in enumerate(heard)
    ]
    for name, recordings in (
        ("clips", clips()),
        ("labelled", labelled()),
        ("stories", told),
    ):
        write_dataset(out / name, info, recordings)
    who = listeners.listener(seed, 0)
    runs = [
        Recording(
            item=f"run_{i}",
            samples=listeners.recorded(who, s, seed, i).astype(np.float32),
            meta={"subject": "one", "timeline": f"story_{i}", "split": part},
        )
        for i, (s, part) in enumerate(zip(heard, parts, strict=True))
    ]
    brain = DatasetInfo(
        kind="fmri",
        sfreq=1 / listeners.TR_S,
        unit="z",
        ch_names=tuple(f"{kind}_{i}" for i, kind in enumerate(who.kind)),
        payload="float32",
        processing={"tr_s": listeners.TR_S, "atlas": "simulated"},
    )
    write_dataset(out / "brain", brain, runs)


# ---- one model -----------------------------------------------------------------------


def tune(asked: argparse.Namespace, name: str) -> Path:
    """The model that a run of fine-tuning leaves, without its head."""
    out = asked.out
    trunk = out / "trunks" / name
    if not trunk.is_dir():
        neurofm(
            *("finetune", "wavjepa/brain_tune", "--from", out / "pretrained"),
            *("--workdir", out / "tuned" / name, f"data.path={out / 'stories'}"),
            f"data.responses.path={out / 'brain'}",
            f"data.responses.control={TUNED[name]}",
            "data.responses.trim=[5,0]",
            f"task.regime={asked.regime}",
            "task.pool=windows",
            "optim.lr=5e-4",
            "train.batch_size=16",
            f"train.epochs={asked.epochs}",
            "eval.metric=",
            f"seed={asked.seed}",
        )
        neurofm("export", out / "tuned" / name, "--out", trunk, "--trunk")
    return trunk


def encoding(out: Path, model: Path, name: str) -> dict[str, float]:
    """Mean correlation on new stories, of the regions of each kind."""
    folder, scored = out / "embedded" / name, out / "encoding" / name
    if not scored.is_dir():
        neurofm("embed", model, out / "stories", "--out", folder)
        given = ("--suite", "encoding", "--data", out / "brain", "--out", scored)
        neurofm("evaluate", folder, *given)
    table = pq.read_table(scored / "targets.parquet")
    kinds = np.array([x.split("_")[0] for x in table["region"].to_pylist()])
    r = table["r"].to_numpy()
    return {kind: float(r[kinds == kind].mean()) for kind in listeners.SHARES}


def probe(out: Path, models: dict[str, Path]) -> dict[str, Any]:
    """Accuracy over twelve classes of every model, and of log-mel features."""
    dataset = open_dataset(out / "labelled")
    examples = exampling.from_dataset(dataset, "sound", None, "split")
    systems = {
        name: [vectors(network(load(path)), network_pools, dataset, examples)]
        for name, path in models.items()
    }
    probed = probe_all(systems, log_mel_candidates(dataset, examples), examples)
    return {name: float(o.points.mean()) for name, ((o,),) in probed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--regime", default="last")
    asked = parser.parse_args()
    out = asked.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "brain" / "dataset.json").is_file():
        generate(out, asked.seed)
    neurofm(
        *("pretrain", "wavjepa/quickstart", "--workdir", out / "pretrained"),
        f"data.path={out / 'clips'}",
        f"train.steps={asked.steps}",
        "eval.every=0",
        f"seed={asked.seed}",
    )
    models = {"before": out / "pretrained"}
    models |= {name: tune(asked, name) for name in TUNED}
    told = {name: encoding(out, path, name) for name, path in models.items()}
    classes = probe(out, models)
    (out / "scores.json.partial").write_text(
        json.dumps({"encoding": told, "probe": classes}, indent=1)
    )
    os.replace(out / "scores.json.partial", out / "scores.json")
    print("| model | " + " | ".join(f"r, {k}" for k in listeners.SHARES) + " | probe |")
    print("|---" * (2 + len(listeners.SHARES)) + "|")
    for name, kinds in told.items():
        cells = [f"{r:.3f}" for r in kinds.values()]
        print(f"| {name} | {' | '.join(cells)} | {classes[name]:.3f} |")
    others = {k: v for k, v in classes.items() if k not in told}
    print("probe of others:", ", ".join(f"{k} {v:.3f}" for k, v in others.items()))


if __name__ == "__main__":
    main()
