"""Commands that train, or say what training would take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from neurofm.cli.command import (
    DONE,
    EXIT_CODES,
    LOCAL,
    PLACE,
    command,
    score_rows,
    table,
)
from neurofm.stores import Place


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that trains."""
    for option in (
        click.argument("overrides", nargs=-1),
        click.option("--profile", metavar="START:STOP", help="Trace steps: 100:105."),
        click.option("--process-id", type=int, help="From 0."),
        click.option("--num-processes", type=int, help="1 alone: no detection."),
        click.option("--coordinator", help="HOST:PORT of process 0; or by detection."),
        click.option("--devices", type=int, help="Simulate N CPU devices a process."),
        click.option("--workdir", type=PLACE, required=True),
    ):
        function = option(function)
    return function


def train_with(
    run: Callable[..., Any],
    config: str,
    overrides: tuple[str, ...],
    workdir: Place,
    devices: int | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    profile: str | None,
) -> tuple[dict[str, Any], str, int]:
    """Find the other processes, then `run(exp, workdir, profile)`."""
    from neurofm.run.stop import stop_signals

    with stop_signals() as stop:  # imports, start-up and compilation take a while
        from neurofm.parallel import distributed

        distributed.initialise(
            coordinator, num_processes, process_id, devices, stop.leave
        )
        from neurofm import config as configs

        outcome, scores = run(configs.load(config, overrides), workdir, profile)
        started = distributed.started()
    result = {
        "step": outcome.step,
        "status": outcome.status,
        "message": outcome.sentence,
        "workdir": str(workdir),
        "started": started,
        "goodput": outcome.goodput,
        "metrics": outcome.row,
        **scores,
    }
    shown = f"{score_rows(scores)}\n" if scores else ""
    return result, f"{shown}{outcome.sentence}", EXIT_CODES.get(outcome.status, DONE)


@command("pretrain")
@click.argument("config")
@run_options
def pretrain_command(**arguments: Any):
    """Train CONFIG (a file, or a name such as wavjepa/base) in a workdir.

    OVERRIDES are settings such as train.steps=1000. The same command goes on where a
    run stopped. Several processes find each other under SLURM, Open MPI, on TPU hosts
    and in Kubernetes; elsewhere tell each one --coordinator, --num-processes and
    --process-id.
    """

    def run(exp: Any, workdir: Place, profile: str | None) -> Any:
        from neurofm.run.metrics import Progress
        from neurofm.run.profile import window
        from neurofm.train import pretrain

        steps = exp.train.steps
        with Progress(steps) as progress:
            traced = window(profile, steps)
            return pretrain(exp, workdir, progress.show, traced), {}

    return train_with(run, **arguments)


@command("finetune")
@click.argument("config")
@click.option("--from", "model", type=PLACE, required=True, help="A MODEL.")
@run_options
def finetune_command(model: Place, **arguments: Any):
    """Train CONFIG (such as brainomni/finetune) on labels, from a trained model.

    Classes are the values of data.target, a column of the dataset's recordings or
    events. The best checkpoint by validation is scored on the test split. The same
    command goes on where a run stopped. tribe/new_subjects fits a TRIBE to the people
    in data.path.
    """

    def run(exp: Any, workdir: Place, profile: str | None) -> Any:
        from neurofm.finetune import resolved, tuned
        from neurofm.run.metrics import Progress
        from neurofm.run.profile import window

        exp, split = resolved(exp, model)
        with Progress(exp.train.steps) as progress:
            traced = window(profile, exp.train.steps)
            done = tuned(exp, split, workdir, progress.show, traced)
        return done.outcome, done.scores

    return train_with(run, **arguments)


@command("plan")
@click.argument("config")
@click.option("--on", required=True, help="v5e:4x4, v5litepod-16, h100:8, ...")
@click.option("--slices", type=int, default=1, show_default=True)
@click.option("--mfu", type=float, default=0.4, show_default=True, help="Assumed.")
@click.argument("overrides", nargs=-1)
def plan_command(
    config: str, on: str, slices: int, mfu: float, overrides: tuple[str, ...]
):
    """Say whether CONFIG fits on an accelerator, how fast and how long it would run.

    For a TPU its step is compiled with none attached, which takes minutes.
    """
    from neurofm import config as configs
    from neurofm.planning.plan import plan
    from neurofm.planning.words import as_json, as_rows

    planned = plan(configs.load(config, overrides), on, slices, mfu)
    return as_json(planned), table(as_rows(planned))


@command("quickstart")
@click.option("--system", default="wavjepa", show_default=True)
@click.option("--workdir", type=LOCAL, default="neurofm-quickstart")
@click.option("--seed", type=int, default=0, show_default=True)
@click.argument("overrides", nargs=-1)
def quickstart_command(
    system: str, workdir: Path, seed: int, overrides: tuple[str, ...]
):
    """Pretrain a tiny model on generated data, probe it, and report: minutes on a CPU.

    No download. A finished one shows its scores again.
    """
    from neurofm.quickstart import quickstart, total_steps
    from neurofm.run.metrics import Progress

    with Progress(total_steps(system, overrides)) as progress:
        done = quickstart(workdir, system, seed, overrides, progress.show)
    code = EXIT_CODES.get(done.status, DONE)
    result = {"status": done.status, "workdir": str(workdir), **done.scores}
    shown = score_rows(done.scores) if done.scores else ""
    return result, f"{shown}\n{done.sentence}".lstrip(), code
