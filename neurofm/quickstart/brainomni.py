"""The quickstart of BrainOmni, on simulated EEG whose labels are in its dynamics.

A tokenizer that decodes log-spectra, then masked prediction of its codes; a probe of
the frozen network on people it never met in a cap it never met, beside the tokenizer
alone, the same network untrained and trained with labels, classic features, and what
one who knows the simulation reads from it.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from neurofm import config, files
from neurofm.config import Experiment
from neurofm.data import meeg
from neurofm.data.records import Dataset, open_dataset
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates, Embed, Pool, Tokens, vectors
from neurofm.eval.pieces import Recordings
from neurofm.eval.rhythms import band_power_candidates, lag_moment_candidates
from neurofm.eval.scores import compare
from neurofm.model import load
from neurofm.models.brainomni import BrainOmni
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.quickstart import events
from neurofm.quickstart.finished import Finished, read_back, sentence
from neurofm.quickstart.labels import train_with_labels
from neurofm.report import page as report
from neurofm.run.metrics import Row
from neurofm.simulate.meeg import LABELS
from neurofm.task import Task, Tree
from neurofm.train import pretrain

log = logging.getLogger(__name__)

TOKENIZER, CONFIG = "brainomni/quickstart_tokenizer", "brainomni/quickstart"
FIRST = "tokenizer."  # begins overrides of the first stage
READ_BATCH = 60  # recordings of 64 sensors or fewer; of more as many as fit there
Asked = tuple[Dataset, Examples]
PAIRS = tuple(
    ("model", other) for other in ("untrained", "tokenizer", "baseline", "supervised")
)


def total_steps(overrides: tuple[str, ...]) -> int:
    """Steps of both stages."""
    return sum(exp.train.steps for exp in experiments(Path(), 0, overrides))


def experiments(
    workdir: Path, seed: int, overrides: tuple[str, ...]
) -> tuple[Experiment, Experiment]:
    """Both stages; overrides that begin with `tokenizer.` are of the first."""
    settings = (f"data.path={workdir / 'records' / 'stream'}", f"seed={seed}")
    own = tuple(o.removeprefix(FIRST) for o in overrides if o.startswith(FIRST))
    rest = tuple(o for o in overrides if not o.startswith(FIRST))
    first = config.load(TOKENIZER, (*settings, *own))
    leaning = f"init.frozen.tokenizer={workdir / 'tokenizer'}"
    second = config.load(CONFIG, (*settings, leaning, *rest))
    task, tokenizer = second.task, first.task
    assert isinstance(task, BrainOmni)
    assert isinstance(tokenizer, BrainTokenizer)
    return first, replace(second, task=replace(task, tokenizer=tokenizer))


def quickstart(
    workdir: Path,
    seed: int,
    overrides: tuple[str, ...],
    show: Callable[[int, Row], None],
) -> Finished:
    """See `neurofm.quickstart.quickstart`."""
    first, second = experiments(workdir, seed, overrides)
    runs = {workdir / "tokenizer": first, workdir: second}
    if (before := read_back(workdir, runs)) is not None:
        return before
    stores = events.generate(workdir / "records", seed, events.CAPS)
    done_before = 0
    for folder, exp in runs.items():
        outcome = pretrain(
            exp, folder, lambda step, row, n=done_before: show(n + step, row)
        )
        if outcome.status != "done":
            return Finished({}, outcome.status, outcome.sentence)
        done_before += exp.train.steps
    scores = score(workdir, stores, seed)
    files.write_json(workdir / "scores.json", scores)
    report.render([workdir], workdir / "report.html")
    return Finished(scores, "done", sentence(workdir))


# ---- scores --------------------------------------------------------------------------


def score(workdir: Path, stores: Mapping[str, Dataset], seed: int) -> dict[str, Any]:
    """Scores at -10 to 0 dB; beside them those of plain means, and at -15 to -5 dB."""
    model, first = load(workdir), load(workdir / "tokenizer")
    task = model.task
    assert isinstance(task, BrainOmni)
    fresh = untrained(task, open_dataset(workdir / "records" / "stream"), seed)
    networks: dict[str, tuple[Task, Tree]] = {
        "model": (task, task.inference(model.variables)),
        "tokenizer": (first.task, first.task.inference(first.variables)),
        "untrained": (task, task.inference(fresh)),
    }
    asked = {name: (x, events.examples(x, seed)) for name, x in stores.items()}
    # So small a network leaves half of two cores idle: another trains meanwhile.
    with ThreadPoolExecutor(1) as beside:
        taught = beside.submit(supervised, task, fresh, stores["labelled"], seed)
        systems = {name: features(name, *one, asked) for name, one in networks.items()}
        systems["supervised"] = features("supervised", *taught.result(), asked)
    made = {
        (name, how): table({k: x[name, how] for k, x in systems.items()}, *asked[name])
        for name in asked
        for how in POOLS
    }
    main = made["labelled", "/mean_max_std"]
    others = {
        "plain mean": made["labelled", "/mean"],
        "-15 to -5 dB": made["quiet", "/mean_max_std"],
        "-15 to -5 dB, plain mean": made["quiet", "/mean"],
    }
    parts = {
        part: {**main[part], **{name: one[part] for name, one in others.items()}}
        for part in ("scores", "differences")
    }
    moments = np.array(stores["labelled"].items["moment_nam"].to_pylist())
    quartiles = np.percentile(moments, [25, 50, 75]).round(1).tolist()
    about = {"suite": "probe", "target": "rising or falling, -10 to 0 dB"}
    return {**about, **main, **parts, "moment_nam_quartiles": quartiles}


def features(
    system: str, task: Task, variables: Tree, asked: Mapping[str, Asked]
) -> dict[tuple[str, str], Candidates]:
    """All layers of a network, by store and pooling."""
    found = {}
    for name, (store, examples) in asked.items():
        log.info("reading %d events (%s): %s", len(examples.row), name, system)
        read = vectors(reader(task, variables), pools, store, examples)
        for how in POOLS:
            found[name, how] = {k: x for k, x in read.items() if k.endswith(how)}
    return found


def table(
    networks: Mapping[str, Candidates], store: Dataset, examples: Examples
) -> dict[str, Any]:
    """Networks beside classic features, and what knows the answer's form."""
    systems = {name: [candidates] for name, candidates in networks.items()}
    evidence = np.array(store.items["evidence"].to_pylist())[:, None]
    systems["lag_moments"] = [lag_moment_candidates(store, examples)]
    systems["oracle"] = [{"oracle": evidence}]
    return compare(systems, band_power_candidates(store, examples), examples, PAIRS)


def supervised(
    task: BrainOmni, fresh: Tree, labelled: Dataset, seed: int
) -> tuple[Task, Tree]:
    """The untrained network trained on the labels of the training split."""
    log.info("training the same network with labels")
    split, label = (np.array(labelled.items[k].to_pylist()) for k in ("split", "label"))
    return train_with_labels(
        task,
        fresh,
        (label == LABELS[1]).astype(int),
        functools.partial(batch_of, labelled, task=task),
        np.flatnonzero(split == "train"),
        seed,
    )


def untrained(task: BrainOmni, stream: Dataset, seed: int) -> Tree:
    """Both stages before their first step; k-means has set the codebooks."""
    rows = np.flatnonzero(stream.n_chans == stream.n_chans.max())[:READ_BATCH]
    batch = batch_of(stream, rows, task)

    @jax.jit
    def init(batch) -> Tree:
        first, second = jax.random.split(jax.random.key(seed))
        frozen = {"tokenizer": task.tokenizer.init(first, batch, {})}
        return {**task.init(second, batch, frozen), "frozen": frozen}

    return jax.device_get(init(batch))


# ---- reading -------------------------------------------------------------------------


def batch_of(store: Recordings, rows: Sequence[int] | np.ndarray, task: Task) -> Tree:
    """Whole recordings of a store as a batch, of 32, 64, ... sensors."""
    n_samples = task.batch_spec("features").contract.window_samples
    widest = int(store.n_chans[np.asarray(rows)].max())
    return {
        **meeg.pad(
            [store.read(int(row), 0, n_samples) for row in rows],
            [store.sensors(int(row)) for row in rows],
            32 * -(-widest // 32),
            n_samples,
        ),
        "index": np.arange(len(rows), dtype=np.int32),
        "valid": np.ones(len(rows), bool),
    }


@functools.cache  # networks of one task, and both stores, share its programs
def _read(task: Task):
    @jax.jit
    def read(variables: Tree, batch: Tree):
        reading = task.read(variables, batch)
        return reading.values, reading.times_s

    return read


def reader(task: Task, variables: Tree) -> Embed:
    """All layers of a network, read batch by batch."""
    read = _read(task)

    def embed(store: Recordings, rows: Sequence[int]) -> Iterator[tuple[int, Tokens]]:
        order = np.asarray(rows)[np.argsort(store.n_chans[rows], kind="stable")]
        n = min(READ_BATCH, 64 * READ_BATCH // int(store.n_chans[order].max()))
        for first in range(0, len(order), n):
            part = order[first : first + n]
            padded = np.resize(part, n)  # one program for all batches of a width
            layers, times = jax.device_get(
                read(variables, batch_of(store, padded, task))
            )
            for i, row in enumerate(part.tolist()):
                yield row, Tokens({k: x[i] for k, x in layers.items()}, times[i])

    return embed


def mean_max_std(
    values: Float[np.ndarray, "T D"], mask: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, " 3*D"]:
    """Each feature of each source over time."""
    kept = values[mask]
    return np.concatenate([kept.mean(0), kept.max(0), kept.std(0)])


def mean(
    values: Float[np.ndarray, "T D"], mask: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, " D"]:
    """Each feature of each source over time, its mean alone."""
    return values[mask].mean(0)


POOLS: dict[str, Pool] = {"/mean_max_std": mean_max_std, "/mean": mean}


def pools(layer: str) -> dict[str, Pool]:
    """What is made of a layer, by name."""
    return {layer + how: pool for how, pool in POOLS.items()}
