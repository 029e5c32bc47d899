"""Commands that score models, and show scores side by side."""

from pathlib import Path
from typing import Any

import click

from neurofm.cli.command import LOCAL, PLACE, command, numbers, score_rows
from neurofm.stores import Place


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
@click.option(
    "--best-electrodes", type=int, help="BrainBERT: probe each alone, average so many."
)
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
