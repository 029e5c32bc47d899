"""What `neurofm prepare` tells a user of what it did."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipelines.summary import Summary

_NEXT = {
    "audio": "wavjepa/tiny",
    "meeg": "brainomni/tokenizer",
    "ieeg": "brainbert/small",
    "codes": "brainomni/tiny",
    "features": "tribe/quickstart",
}
_SHOWN = 20  # sentences of a kind


def shown(summary: "Summary") -> dict[str, Any]:
    """Rows of the table, with the command that comes next."""
    config = _NEXT.get(summary.kind, "CONFIG")
    data, held = summary.out, f"{summary.n_items} of {summary.n_files} files"
    if summary.kind == "codes":
        data += " task.train_on=codes init.frozen.tokenizer=MODEL"
        held = f"{summary.n_files}, in {summary.n_items} segments"
    next_ = f"neurofm pretrain {config} --workdir RUN data.path={data}"
    if summary.kind == "features":
        next_ = f"neurofm pretrain {config} --workdir RUN data.path=FMRI"
        next_ += f" data.features={summary.out}"
    if summary.kind == "fmri":
        next_ = "neurofm prepare features EVENTS.tsv --extractor NAME --out DIR"
    return {
        "status": summary.status,
        "recordings": held,
        "hours": f"{summary.hours:.2f}",
        "intervals": summary.n_events,
        "dataset": summary.out,
        **_sentences("skipped", summary.skipped),
        **_sentences("note on", summary.notes),
        "next": next_,
    }


def _sentences(word: str, notes: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The first sentences, each once: many files of a study share them."""
    files: dict[str, list[str]] = {}
    for file, sentence in notes:
        files.setdefault(sentence, []).append(file)
    rows = {}
    for sentence, where in list(files.items())[:_SHOWN]:
        others = f" and {len(where) - 1} more" if len(where) > 1 else ""
        name = f"{word} {where[0]}{others}"
        while name in rows:  # several sentences on one file: a row each
            name += " "
        rows[name] = sentence
    if (hidden := len(files) - _SHOWN) > 0:
        rows[f"{word} others"] = f"{hidden} more sentences: see --json"
    return rows
