"""BrainOmni's quickstart with people in a helmet beside those in caps.

    python benchmarks/brain_meg.py --out DIR [--seed N] [a.b=c ...]

trains both stages of `neurofm quickstart --system brainomni` on its stream of EEG and
one of MEG (102 magnetometers, 204 planar gradiometers), and probes the frozen network
on new people in the helmet, with the quickstart's poolings and baselines; no network is
trained with labels. A step of MEG costs eight times one of EEG, so a twelfth
of the rows are MEG. What is in DIR is not made again, and a training that was stopped
goes on.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from neurofm.data.records import open_dataset
from neurofm.eval.features import Candidates
from neurofm.model import load
from neurofm.models.brainomni import BrainOmni
from neurofm.quickstart import brainomni, events
from neurofm.train import pretrain

MIXED = ("data.weights=[0.92,0.08]", "data.buckets=3", "train.checkpoint_every=100")
LOUDNESS = {"labelled": events.SNR_DB["labelled"]}


def trained(out: Path, seed: int, overrides: list[str]) -> None:
    """Both stages, `out/tokenizer` and `out`."""
    streams = json.dumps(
        [str(out / "records" / name / "stream") for name in ("caps", "helmets")]
    )
    mixed = (f"data.path={streams}", *MIXED)
    both = (*mixed, *(brainomni.FIRST + setting for setting in mixed), *overrides)
    first, second = brainomni.experiments(out, seed, both)
    for folder, exp in {out / "tokenizer": first, out: second}.items():
        outcome = pretrain(exp, folder)
        if outcome.status != "done":
            raise SystemExit(outcome.sentence)


def read(out: Path, seed: int, system: str, asked: brainomni.Asked) -> Candidates:
    """All layers of a network under both poolings, kept in a file of its own."""
    kept = out / f"{system}.npz"
    if not kept.is_file():
        model = load(out / "tokenizer" if system == "tokenizer" else out)
        variables = model.variables
        if system == "untrained":
            assert isinstance(model.task, BrainOmni)
            caps = open_dataset(out / "records" / "caps" / "stream")
            variables = brainomni.untrained(model.task, caps, seed)
        task, one = model.task, {"labelled": asked}
        found = brainomni.features(system, task, task.inference(variables), one)
        merged = {name: x for part in found.values() for name, x in part.items()}
        draft = kept.with_name("draft.npz")
        np.savez(draft, allow_pickle=False, **merged)
        draft.replace(kept)
    with np.load(kept) as arrays:
        return dict(arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    out, seed = asked.out, asked.seed
    events.generate(out / "records" / "caps", seed, events.CAPS, {})
    stores = events.generate(
        out / "records" / "helmets", seed, events.HELMETS, LOUDNESS
    )
    trained(out, seed, asked.overrides)
    store = stores["labelled"]
    examples = events.examples(store, seed)
    networks = {
        system: read(out, seed, system, (store, examples))
        for system in ("model", "tokenizer", "untrained")
    }
    for how in brainomni.POOLS:
        pooled = {
            system: {name: x for name, x in layers.items() if name.endswith(how)}
            for system, layers in networks.items()
        }
        table = brainomni.table(pooled, store, examples)
        print(how.removeprefix("/"))
        for part, sign in (("scores", ""), ("differences", "+")):
            for name, one in table[part].items():
                bounds = f"[{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"
                print(f"  {name:20s} {one['mean']:{sign}.3f} {bounds}")


if __name__ == "__main__":
    main()
