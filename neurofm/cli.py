"""The command line: each command parses, calls one function and shows its result.

Exit codes: 0 done, 1 a user's error (one sentence), 42 saved and preempted, 130 Ctrl-C
(a run is saved), 70 a fault worth a report or a retry.
"""

import errno
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from neurofm import __version__
from neurofm.errors import NeuroFMError
from neurofm.run.stop import Terminated, terminable
from neurofm.stores import Place, is_remote, place

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings
    from neurofm.model import Model
    from neurofm.task import Want

DONE, USER_ERROR, PREEMPTED, FAULT, INTERRUPTED = 0, 1, 42, 70, 130
EXIT_CODES = {
    "preempted": PREEMPTED,
    "interrupted": INTERRUPTED,
    "collapsed": USER_ERROR,
}

# What the place that was named is to blame for, and not this program.
PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
PLACES += (errno.EISDIR, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP)


class PathOrAddress(click.ParamType):
    """A path; the address of a store too, unless it is to be local."""

    name = "path"

    def __init__(self, local: bool = False):
        self.local = local

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if self.local and is_remote(value):
            self.fail(
                f"{value} is in a store, and this has to be on a local disk: give a "
                "local path, and copy it from or to the store",
                param,
                ctx,
            )
        try:
            return place(value)
        except NeuroFMError as error:
            self.fail(str(error), param, ctx)


PLACE, LOCAL = PathOrAddress(), PathOrAddress(local=True)

Result = tuple[dict[str, Any], str]  # the JSON object, and the words for a person


class Group(click.Group):
    """A click group whose usage errors exit 1, as all errors of a user do."""

    def main(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        try:
            return super().main(args, *more, standalone_mode=False, **kwargs)
        except click.ClickException as error:
            if "--json" in (sys.argv if args is None else args):
                click.echo(json.dumps({"error": error.format_message()}))
            error.show()
            sys.exit(USER_ERROR)
        except click.Abort:
            sys.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Train, fine-tune and use foundation models of brain and sound signals."""


def command(
    name: str, group: click.Group = cli
) -> Callable[[Callable[..., Any]], click.Command]:
    """Register a command with `--json` and `--debug`, and map what it raises."""

    def register(function: Callable[..., Any]) -> click.Command:
        @group.command(name, help=function.__doc__)
        @click.option("--json", "as_json", is_flag=True, help="One JSON object.")
        @click.option("--debug", is_flag=True, help="Show tracebacks.")
        @functools.wraps(function)
        def run(as_json: bool, debug: bool, **arguments: Any) -> None:
            logging.basicConfig(
                level=logging.DEBUG if debug else logging.INFO,
                format="%(message)s",
                stream=sys.stderr,
                force=True,
            )
            for library in ("absl", "jax", "gcsfs"):
                logging.getLogger(library).setLevel(logging.WARNING)
            try:
                with (
                    result_alone_on_stdout() as stdout,
                    terminable(lambda: end_now(as_json, stdout)),
                ):
                    result, words, *code = function(**arguments)
            except KeyboardInterrupt:
                tell("interrupted", as_json)
                sys.exit(INTERRUPTED)
            except Terminated:
                end_now(as_json, 1)
            except Exception as error:
                if sentence := users_mistake(error):
                    if debug:
                        raise
                    if as_json:
                        click.echo(json.dumps({"error": sentence}))
                    click.echo(f"error: {sentence}", err=True)
                    sys.exit(USER_ERROR)
                if as_json:
                    click.echo(
                        json.dumps({"error": f"{type(error).__name__}: {error}"})
                    )
                logging.exception("neurofm met a fault of its own:")
                sys.exit(FAULT)
            click.echo(json.dumps(result) if as_json else words)
            sys.exit(code[0] if code else DONE)

        return run

    return register


def tell(what: str, as_json: bool) -> None:
    """Say that a command was stopped."""
    words = f"{what}; the same command goes on from here"
    if as_json:
        click.echo(json.dumps({"error": words}))
    click.echo(words, err=True)


def end_now(as_json: bool, stdout: int) -> NoReturn:
    """End for SIGTERM whatever other threads do, telling so on the given stdout."""
    try:
        os.dup2(stdout, 1)
        tell("stopped", as_json)
        sys.stdout.flush()
    finally:
        os._exit(PREEMPTED)


@contextmanager
def result_alone_on_stdout() -> Iterator[int]:
    """While entered, whatever is written to stdout, by C code too, goes to stderr.

    Gives the file descriptor of the real one.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def users_mistake(error: Exception) -> str | None:
    """What to tell a user who can mend it, or None for a fault of ours."""
    if isinstance(error, NeuroFMError):
        return str(error)
    full = os.strerror(errno.ENOSPC)
    if isinstance(error, OSError) and error.errno in PLACES:
        where = error.filename2 or error.filename
        what = f"{where}: {error.strerror}" if where else error.strerror
    else:  # libraries wrap it into errors of their own
        what = full if full in str(error) else None
    if what:
        return (
            f"{what}: give a place that can be used and has "
            "room, and run the same command again"
        )
    return None


def model_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The MODEL argument: a run's workdir, a checkpoint step or a model folder."""
    return click.argument("model", type=PLACE)(function)


def table(rows: dict[str, Any]) -> str:
    """Two aligned columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def score_rows(scores: dict[str, Any]) -> str:
    """The score table of a report, as lines."""
    from neurofm.report.tables import score_tables

    return "\n".join(
        f"{found['caption']}\n{table({k: v[0] for k, v in found['rows'].items()})}"
        for found in score_tables([scores])
    )


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The value of an option that takes several."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise NeuroFMError(
            f"--{option} {text} is no list of numbers; write it as 50,60"
        ) from error


def counter(what: str) -> Callable[..., None]:
    """Progress on stderr, one line rewritten on a terminal, silent elsewhere."""

    def show(done: int, total: int, *_: Any) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            click.echo(f"\r{what}: {done} of {total}{end}", nl=False, err=True)

    return show


# ---- what is there -------------------------------------------------------------------


@command("check")
@click.argument("path", type=PLACE)
def check_command(path: Place):
    """Say what a folder, file, dataset or model is, what is wrong, and what is next."""
    import io

    from rich.console import Console

    from neurofm.check import check
    from neurofm.findings import render

    findings = check(path)
    page = io.StringIO()
    render(findings, Console(file=page, width=100))
    return findings.to_json(), page.getvalue().rstrip()


# ---- training ------------------------------------------------------------------------


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
    """Find the other processes, then `run(exp, workdir, show, profile)`."""
    from neurofm.run.stop import stop_signals

    with stop_signals() as stop:  # imports, start-up and compilation take a while
        from neurofm.parallel import distributed

        distributed.initialise(
            coordinator, num_processes, process_id, devices, stop.leave
        )
        from neurofm import config as configs
        from neurofm.run.metrics import Progress
        from neurofm.run.profile import window

        exp = configs.load(config, overrides)
        steps = window(profile, exp.train.steps) if profile else None
        with Progress(exp.train.steps) as progress:
            outcome, scores = run(exp, workdir, progress.show, steps)
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

    def run(*asked: Any) -> Any:
        from neurofm.train import pretrain

        return pretrain(*asked), {}

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

    def run(exp: Any, *asked: Any) -> Any:
        from neurofm.finetune import finetune

        done = finetune(exp, model, *asked)
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


# ---- using a model -------------------------------------------------------------------


def meeg_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How files of EEG and MEG are read; `meeg_settings` takes them."""
    for option in (
        click.option("--line-freq", type=float, help="M/EEG: of the mains, in Hz."),
        click.option("--unit", help="M/EEG: what numbers are in: uV or fT,fT/cm."),
        click.option("--montage", help="M/EEG: a montage of MNE, or a file."),
    ):
        function = option(function)
    return function


def meeg_settings(model: "Model", **given: Any) -> "Settings | None":
    """Settings for files of EEG and MEG at the model's rate, where any are given."""
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    from neurofm.embedding.meeg import settings_for

    if "unit" in given:
        given["unit"] = tuple(given["unit"].split(","))
    return settings_for(model.contract, **given)


@command("embed")
@model_argument
@click.argument("inputs", nargs=-1, required=True, type=PLACE)
@click.option("--out", type=LOCAL, required=True)
@click.option("--layers", default="last", show_default=True, help="6,12 or all.")
@click.option("--pool", type=click.Choice(["mean", "none"]), default="none")
@click.option("--codes", "want", flag_value="codes", help="A tokenizer's codes.")
@click.option("--sources", "want", flag_value="sources", help="And where they look.")
@click.option(
    "--predict", "want", flag_value="prediction", help="Responses of a brain."
)
@click.option("--subject", help="Whose brain; default nobody in particular.")
@click.option("--events", is_flag=True, help="One row an interval event.")
@click.option(
    "--around", type=float, nargs=2, help="Seconds, TMIN TMAX: cut out each event."
)
@meeg_options
@click.option(
    "--format", type=click.Choice(["safetensors", "npz", "hdf5"]), default="safetensors"
)
@click.option("--window", "window_s", type=float, help="Seconds; default the model's.")
@click.option("--overlap", "overlap_s", type=float, default=0.0, help="Seconds.")
@click.option("--times", type=click.Choice(["centers", "released"]), default="centers")
@click.option("--batch-size", type=int, default=16, show_default=True)
def embed_command(
    model: Place,
    inputs: tuple[Place, ...],
    layers: str,
    want: "Want | None",
    **arguments: Any,
):
    """Embed files, folders or datasets; interrupted, it goes on."""
    from neurofm.embed import embed
    from neurofm.model import load

    names = layers if layers == "all" else layers.split(",")
    meeg = {name: arguments.pop(name) for name in ("montage", "unit", "line_freq")}
    loaded = load(model)
    result = embed(
        loaded,
        inputs,
        want=want or "features",
        layers=names,
        settings=meeg_settings(loaded, **meeg),
        progress=counter("embedded"),
        **arguments,
    )
    return result, table({k: v for k, v in result.items() if v not in ([], {})})


@command("reconstruct")
@model_argument
@click.argument("given", metavar="INPUT", type=LOCAL)
@click.option("--out", type=LOCAL, required=True, help=".fif (EEG) or .npz")
@click.option("--montage", help="Electrodes to rebuild: a montage of MNE, or a file.")
@click.option("--hide", default="", help="Channels not to show: Cz,Pz")
@click.option("--positions", help="Electrodes of INPUT: a montage of MNE, or a file.")
@click.option("--unit", help="What numbers are in: uV or fT,fT/cm.")
@click.option("--line-freq", type=float, help="Of the mains, in Hz.")
def reconstruct_command(
    model: Place,
    given: Path,
    out: Path,
    montage: str | None,
    hide: str,
    positions: str | None,
    **reading: Any,
):
    """Rebuild EEG or MEG at its own sensors or at those of a montage.

    Bad channels, and those to hide, are filled in. A picture shows the error.
    """
    from neurofm.model import load
    from neurofm.reconstruct import reconstruct

    loaded = load(model)
    result = reconstruct(
        loaded,
        given,
        out,
        montage=montage,
        hide=tuple(name for name in hide.split(",") if name),
        settings=meeg_settings(loaded, montage=positions, **reading),
    )
    r2 = {
        f"r2 of {word} {kind}": f"{x:.3f}"
        for kind, medians in result["r2"].items()
        for word, x in medians.items()
    }
    return result, table({**{k: v for k, v in result.items() if k != "r2"}, **r2})


@command("import")
@click.argument("system")
@click.argument("weights", type=LOCAL)
@click.option("--out", type=LOCAL, required=True)
@click.option("--config", type=LOCAL, help="The hub's config.")
def import_command(system: str, weights: Path, out: Path, config: Path | None):
    """Turn official weights into a neurofm model, strictly, with a report."""
    from dataclasses import asdict

    from neurofm.weights.official import import_model

    report = import_model(system, weights, out, config)
    shown = {
        "tensors matched": len(report.matched),
        **{f"ignored {name}": why for name, why in report.ignored.items()},
        "parameters": f"{report.n_params:,}",
        "params_sha256": report.params_sha256,
        "model": out,
        "next": f"neurofm check {out}",
    }
    return {**asdict(report), "out": str(out)}, table(shown)


@command("export")
@model_argument
@click.option("--out", type=LOCAL, required=True)
@click.option(
    "--trunk", is_flag=True, help="Of a fine-tuned model, what is below its head."
)
@click.option("--torch", is_flag=True, help="And model.py, the same in PyTorch.")
@click.option("--form", help="Of stored embeddings: zarr, netcdf or bids.")
def export_command(model: Place, out: Path, trunk: bool, torch: bool, form: str | None):
    """Write config.json, model.safetensors and a card; load(OUT) gives the same.

    With --form, MODEL is a folder of embeddings, which is written for other tools.
    """
    from neurofm import twin
    from neurofm.embedding import forms
    from neurofm.finetune import below_head
    from neurofm.model import load, save
    from neurofm.run.workdir import SEEN, seen_by
    from neurofm.weights import leaves

    if form is not None:
        if trunk or torch:
            raise NeuroFMError(
                "--form writes embeddings, and --trunk and --torch are of models: "
                "leave one of them out"
            )
        written = forms.write(model, out, form)
        return written, f"exported {written['n_embeddings']} embeddings to {out}"
    loaded = load(model)
    if trunk:
        loaded = below_head(loaded)
    seen = "".join(f"{digest}\n" for digest in sorted(seen_by(model)))
    more = {SEEN: seen} if seen else None
    last = functools.partial(twin.write, loaded) if torch else None
    save(out, loaded.task, loaded.variables, loaded.meta, more, last)
    digest = leaves.params_sha256(loaded.variables["params"])
    return {"out": str(out), "params_sha256": digest}, f"exported to {out}"


@command("evaluate")
@click.argument("given", nargs=-1, required=True, type=PLACE)
@click.option("--suite", default="probe", show_default=True, help="Or a TOML file.")
@click.option("--data", type=PLACE, help="See the suite.")
@click.option("--out", type=LOCAL, required=True)
@click.option("--target", help="Column to predict; default the interval labels.")
@click.option("--groups", help="Column that must not be on both sides of a split.")
@click.option(
    "--split",
    help="Column, logo, groupkfold:K, kfold:K, blocks:K, column=value or split.json.",
)
@click.option(
    "--gap", type=float, help="Seconds between the sides of a split in one recording."
)
@click.option("--stimulus", help="Column of what was heard, kept on one side too.")
@click.option(
    "--around", type=float, nargs=2, help="M/EEG: seconds, TMIN TMAX, of each event."
)
@click.option("--probe", help="best, logistic, ridge or knn; default best.")
@click.option("--label-counts", help="Training labels a class to try: 5,10,50.")
@click.option("--labels", type=LOCAL, help="As in `prepare`.")
@click.option("--pattern", help="As in `prepare`.")
@click.option("--subdirs", help="As in `prepare`.")
@click.option("--delays", help="encoding: seconds; default all from 2 to 8.")
@click.option(
    "--penalty", help="encoding: ridge, or banded, with a band for each features given."
)
@click.option(
    "--permutations", type=int, help="encoding: to tell chance from; default 1000."
)
@click.option(
    "--floor", type=float, help="encoding: least ceiling to divide by; default 0.25."
)
@click.option("--subjects", help="encoding: whom, as 01,02; default everyone.")
@click.option("--atlas", type=LOCAL, help="encoding: image of the regions, for maps.")
@click.option("--submit", type=LOCAL, help="encoding: table of runs to predict.")
def evaluate_command(
    given: tuple[Place, ...],
    out: Path,
    delays: str | None,
    subjects: str | None,
    label_counts: str | None,
    **arguments: Any,
):
    """Score models or stored embeddings; several are seeds of one system.

    With --suite encoding, features or embeddings of stimuli, set side by side, are
    scored by how well they predict the fMRI of --data, or one trained model of brains
    with its features by what it predicts for held-out runs; with similarity, saved
    embeddings are compared layer by layer; with retrieval they are looked for among
    those of --data; with zero-shot told by texts in --data; with hear models are
    scored on task folders of HEAR. A file of yours can declare a suite.
    """
    from neurofm.evaluate import evaluate

    seconds = numbers("delays", delays) if delays else None
    people = [name.strip() for name in subjects.split(",")] if subjects else None
    counts = numbers("label-counts", label_counts) if label_counts else None
    arguments |= {"delays": seconds, "subjects": people, "label_counts": counts}
    result = evaluate(given, out=out, **arguments)
    shown = score_rows(result)
    return result, f"{shown}\nsee {out / 'report.html'}"


@command("report")
@click.argument("runs", nargs=-1, required=True, type=PLACE)
@click.option("--out", type=PLACE, required=True)
def report_command(runs: tuple[Place, ...], out: Place):
    """Show runs, models and scores side by side in one HTML file.

    An --out that ends in .md gets the tables alone, as Markdown.
    """
    from neurofm.report.page import render

    render(runs, out)
    return {"out": str(out)}, f"see {out}"


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


# ---- commands that register themselves -----------------------------------------------

import data_pipelines.commands  # noqa: E402, F401
import neurofm.launch.commands  # noqa: E402, F401
