"""Commands that look at, use and exchange models and data."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neurofm.cli.command import LOCAL, PLACE, command, counter, table
from neurofm.errors import NeuroFMError
from neurofm.stores import Place

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings
    from neurofm.model import Model
    from neurofm.task import Want


def model_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The MODEL argument: a run's workdir, a checkpoint step or a model folder."""
    return click.argument("model", type=PLACE)(function)


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
    if (kind := model.contract.kind) not in ("eeg", "meg", "meeg"):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise NeuroFMError(
            f"{names}: of EEG and MEG alone, and this model takes {kind}: leave it out"
        )
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
