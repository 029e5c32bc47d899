"""Pretraining: one loop for every Task.

Setup in reading order, one jitted step, then the loop. Inside an iteration the order is
evaluate, save, and only then advance, so a checkpoint pairs its parameters with the
batch that comes next, and a resumed run repeats nothing and skips nothing.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp

from neurofm import config, stores
from neurofm.checkpoint import Checkpoints
from neurofm.config import Experiment
from neurofm.data import loader, plan
from neurofm.data.records import Dataset, open_dataset
from neurofm.data.rows import seen_sha256
from neurofm.data.scenes import Scenery, open_scenery
from neurofm.errors import NeuroFMError
from neurofm.parallel import distributed, mesh, sharding
from neurofm.registry import suggest
from neurofm.report import page as report
from neurofm.run import frozen as frozen_models
from neurofm.run import hosts, track
from neurofm.run.clock import Clock
from neurofm.run.frozen import Frozen
from neurofm.run.heldout import HeldOut
from neurofm.run.metrics import MetricsLog
from neurofm.run.profile import Profile, Window
from neurofm.run.stall import StallWatch
from neurofm.run.stop import Stop, stop_signals
from neurofm.run.watch import CollapseWatch, Plateau, check_finite
from neurofm.run.workdir import Workdir, versions
from neurofm.step import State, abstract_state, compiled_step, new_state
from neurofm.task import Batch, Task
from neurofm.weights import leaves

log = logging.getLogger(__name__)

Row = dict[str, float]
Status = Literal["done", "preempted", "interrupted", "collapsed"]
IN_FLIGHT = 2  # steps handed to the device before the host waits for the oldest


@dataclass(frozen=True)
class Outcome:
    """How a run ended: after how many steps, why, and what to tell the user."""

    step: int
    status: Status
    sentence: str
    row: Row
    goodput: Row  # hours since the first start, and where they went


def pretrain(
    exp: Experiment,
    workdir: str | os.PathLike[str],
    show: Callable[[int, Row], None] = lambda step, row: None,
    profile: Window | None = None,
) -> Outcome:
    """Train `exp` in `workdir`, going on from its newest good checkpoint if it has one.

    Args:
      exp: a resolved experiment.
      workdir: folder of the run, or its address (gs://, s3://); made if need be.
      show: called with every logged row.
      profile: steps (from, to) to trace into `workdir/profile`.

    Raises:
      NeuroFMError: another experiment or dataset than the workdir's, data the task
        cannot take, a loss that is not finite, a tracker that is not installed.
    """
    if not exp.data.path:
        raise NeuroFMError(
            "data.path is empty: prepare a dataset (`neurofm prepare audio SRC --out "
            "DIR`) and give it as data.path=DIR"
        )
    track.require(exp.train.trackers)
    if stores.is_remote(workdir) and (exp.train.trackers or profile):
        raise NeuroFMError(
            f"{workdir} is in a store, where train.track and --profile cannot write: "
            "leave them out, or give a --workdir on a disk"
        )
    exp, leaning = frozen_models.lean(exp)
    datasets = [open_dataset(path) for path in exp.data.stores]
    frozen_models.check_made_by(datasets, leaning)
    exp = replace(exp, task=exp.task.fitted(datasets))
    scenery = open_scenery(exp.task.batch_spec("train"), exp.data)
    every = [*datasets, *(scenery.datasets if scenery else ())]
    folder = Workdir.claim(stores.place(workdir), exp, [d.hash for d in every])
    with folder.logged(), stop_signals() as stop:
        outcome = _pretrain(
            exp, leaning, folder, datasets, scenery, show, profile, stop
        )
        if jax.process_index() == 0:
            report.render([folder.path], folder.path / "report.html")
    if outcome.status == "done":
        stop.hand_on()
    return outcome


def _pretrain(
    exp: Experiment,
    leaning: dict[str, Frozen],
    folder: Workdir,
    datasets: Sequence[Dataset],
    scenery: Scenery | None,
    show: Callable[[int, Row], None],
    profile: Window | None,
    stop: Stop,
) -> Outcome:
    # ---- data and mesh --------------------------------------------------------------
    task, optim, train = exp.task, exp.optim, exp.train
    clock = Clock()
    log.info(distributed.sentence())
    devices = mesh.make(exp.mesh)
    mesh.check_batch(devices, train.batch_size, train.accumulate)
    spec = task.batch_spec("train")
    rows_plan = plan.training(
        datasets, spec, exp.data, exp.seed, train.batch_size, scenery
    )
    by_row = sharding.batch_sharding(devices)
    rows = distributed.rows_of_this_process(by_row, train.batch_size)
    for store, _, counts in rows_plan.stores:
        told = ", ".join(f"{k} {n}" for k, n in counts.items())
        log.info("%s: %s", store.path, told)
    folder.note_seen(seen_sha256(rows_plan))

    def deliveries(rows_plan, start_step):
        local = loader.batches(
            rows_plan, spec, train.batch_size, rows, start_step, exp.data.workers
        )
        return loader.device_batches(local, by_row, train.batch_size, rows)

    # ---- state: own checkpoint, else init.path, else scratch ------------------------
    first = next(deliveries(rows_plan, 0)).batch

    frozen = frozen_models.place(leaning, devices)

    def fresh(key, batch, frozen) -> State:
        return new_state(task, optim, train.steps, key, batch, frozen)

    key = jax.random.key(exp.seed)
    wanted, notes = abstract_state(task, optim, train.steps, first, devices, frozen)
    for note in notes:
        log.info("sharding: %s", note)
    placed = jax.tree.map(lambda x: x.sharding, wanted)
    checkpoints = Checkpoints(folder.path / "checkpoints", keep=train.keep)
    restored = checkpoints.restore(wanted)
    watch, start = CollapseWatch(train.collapse_share), 0
    plateau = Plateau(exp.eval.patience)
    if restored is not None:
        start, state, meta = restored
        clock.go_on(meta["clock"])
        watch = CollapseWatch(train.collapse_share, **meta["watch"])
        plateau = Plateau(exp.eval.patience, **meta.get("plateau", {}))
        frozen_models.check_same(meta.get("frozen", {}), leaning)
        log.info("going on from step %d of %d", start, train.steps)
    else:
        with clock.bucket("compile"):
            state = jax.jit(fresh, out_shardings=placed)(key, first, frozen)
        if exp.init.path:
            state |= start_from(exp.init.path, state, task)
    written = MetricsLog(folder.path / "metrics.jsonl")
    folder.journals.append(written.journal)
    if jax.process_index() == 0:
        written.cut_back(start or -1)  # at its start a run evaluates step 0 again

    # ---- programs -------------------------------------------------------------------
    one_step = compiled_step(
        task, optim, train.steps, train.accumulate, exp.seed, wanted
    )
    summarise = jax.jit(task.summary)
    held_out = HeldOut(
        task,
        exp.eval,
        exp.seed,
        datasets,
        exp.data,
        train.batch_size,
        deliveries,
        scenery,
    )
    seconds_of_signal = spec.contract.window_samples / spec.contract.sfreq
    pending: dict[int, dict[str, jax.Array]] = {}

    n_params = leaves.n_params(wanted["params"])

    def flops_of(batch: Batch) -> float:
        return task.sized(batch).flops(train.batch_size)

    def fetch() -> dict[int, Row]:
        """Metrics of the steps since the last fetch, checked; the one host sync."""
        rows = {
            n: {k: float(v) for k, v in m.items()}
            for n, m in jax.device_get(pending).items()
        }
        pending.clear()
        for n, row in rows.items():
            check_finite(n, row)
        return rows

    def save(step: int) -> None:
        fetch()
        with clock.bucket("checkpoint"):
            meta = {
                "config": config.to_json(exp),
                "contract": vars(task.batch_spec("features").contract),
                "datasets": [store.hash for store, _, _ in rows_plan.stores],
                "versions": versions(),
                "mesh": dict(devices.shape),
                "clock": clock.to_json(),
                "watch": {"start": watch.start, "below": watch.below},
                "plateau": {k: v for k, v in vars(plateau).items() if k != "patience"},
                "frozen": frozen_models.known(leaning),
            }
            folder.upload()  # so that no row before a checkpoint is lost
            checkpoints.save(step, state, meta, plateau.step or None)

    def record(step: int, row: Row) -> None:
        if jax.process_index() == 0:
            written.append({"step": step, **row})
        show(step, row)

    def after(plateau: Plateau, step: int, found: Row) -> Plateau:
        if not exp.eval.metric:
            return plateau
        if (name := f"eval/{exp.eval.metric}") not in found:
            raise NeuroFMError(
                f"eval.metric is {exp.eval.metric!r}, which {task.name} does not "
                f"measure: {suggest(name, list(found))}"
            )
        return plateau.seen(step, found[name])

    def ended(step: int, status: Status, row: Row) -> Outcome:
        told = folder.sentence(status, step, train.steps, clock.sentence())
        return Outcome(step, status, told, row, clock.goodput())

    # ---- loop -----------------------------------------------------------------------
    step, row, status = start, {}, "done"
    stop.listen()  # libtpu takes SIGTERM when its devices are first asked for
    if stop.name and start < train.steps and jax.process_count() == 1:
        return ended(start, stop.status, row)
    trackers = train.trackers if jax.process_index() == 0 else ()
    with (
        jax.set_mesh(devices),
        track.mirrors(trackers, folder.path, config.to_json(exp), start) as mirrors,
        Profile(profile, folder.path / "profile") as profiled,
        StallWatch() as stall,
    ):
        written.mirrors = mirrors
        agree = distributed.agreement(devices)
        for delivery in deliveries(rows_plan, start):
            last = step == train.steps
            if step > start or start == 0:
                if exp.eval.every and (last or step % exp.eval.every == 0):
                    with clock.bucket("eval"):
                        if found := held_out(state, frozen):
                            record(step, found)
                            plateau = after(plateau, step, found)
                if step > start and (last or step % train.checkpoint_every == 0):
                    save(step)
            if status == "collapsed" or plateau.reached:
                save(step)
                break
            if last:
                break
            if agree(stop.name is not None):
                status = stop.status
                if step:
                    save(step)
                break
            profiled.before(step, state)
            n, flops = train.batch_size, flops_of(delivery.batch)
            with clock.step(delivery.wait_s, n, seconds_of_signal, flops):
                state, metrics, sums = one_step(state, frozen, delivery.batch)
                step += 1
                pending[step] = metrics
                if (behind := step - IN_FLIGHT) in pending:
                    jax.block_until_ready(pending[behind])
            stall.step()
            if step % train.log_every == 0 or step == train.steps:
                row = fetch()[step]
                seen = {k: float(v) for k, v in summarise(sums).items()}
                row |= {f"monitor/{k}": v for k, v in seen.items()}
                row |= {"model/params": n_params} | clock.row(devices.size)
                row |= hosts.of_all_processes(row)
                record(step, row)
                if "item_var" in seen:
                    watch = watch.seen(seen["item_var"])
                if watch.collapsed:
                    status = "collapsed"
                    log.warning(watch.sentence(step, seen["item_var"]))
        with clock.bucket("checkpoint"):
            checkpoints.wait()
    return ended(step, status, row)


def start_from(path: str, state: State, task: Task) -> dict[str, State]:
    """The variables of another model in place of the fresh ones, all of them.

    As `task` takes them over.

    Raises:
      NeuroFMError: the model's arrays are not those of this task.
    """
    from neurofm.model import load

    model = load(path)
    taken = task.taken_over(model.task, model.variables)
    given = {k: v for k, v in taken.items() if k != "frozen"}
    ours = {name: state[name] for name in given}
    if jax.tree.map(jnp.shape, given) != jax.tree.map(jnp.shape, ours):
        raise NeuroFMError(
            f"init.path={path} holds other arrays than task {task.name} makes: start "
            "from a model of the same sizes, predictor and teacher included"
        )
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), given, ours)
