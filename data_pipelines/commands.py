"""`neurofm prepare`: recordings of every kind into record shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_pipelines.shown import shown
from neurofm.cli.command import LOCAL, PLACE, command, counter, numbers, table
from neurofm.errors import NeuroFMError
from neurofm.stores import Place

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings
    from data_pipelines.summary import Summary

_LABELS = ("labels", "pattern", "subdirs", "workers")
_MEEG = ("picks", "montage", "electrodes", "unit", "line_freq", "notch", "band")
_MEEG += ("bads", "frame", "coil_types")
_IEEG = ("reference", "notch", "line_freq", "source_sfreq", "unit", "electrodes")
_ENTITIES = ("subject", "session", "task", "run", "acquisition", "processing")
_ENTITIES += ("datatype",)
_FMRI = ("atlas", "names", "mask", "axes", "array", "tr", "source_tr", "confounds")
_FMRI += ("detrend", "filter", "scale", "ddof", "grid", "timeline", "split", "study")
_FEATURES = ("extractor", "modality", "model", "layers", "aggregation", "vectors")
_FEATURES += ("batch_size",)
# Options that only some kinds take.
TAKES = {
    "audio": (*_LABELS, "channels", "runner", "beam"),
    "meeg": (*_LABELS, *_MEEG),
    "bids": (*_LABELS, *_MEEG, *_ENTITIES),
    "ieeg": (*_LABELS, *_IEEG, "words"),
    "fmri": (*_LABELS, *_FMRI, "only", "events"),
    "features": (*_FEATURES, "payload", "workers"),
    "tfds": ("corpus", "audio", "source_sfreq", "data_dir"),
    "codes": ("tokenizer", "segment_s", "overlap", "batch_size"),
    "superlets": ("segment_s", "workers"),
}
_SFREQ = {"audio": 16_000.0, "tfds": 16_000.0, "meeg": 256.0, "bids": 256.0}
_SFREQ |= {"features": 2.0, "ieeg": 2048.0}


def _of_another_kind(kind: str) -> set[str]:
    """Options of `prepare` that `kind` does not take; one that is given is refused."""
    context = click.get_current_context()
    some = {name for names in TAKES.values() for name in names}
    theirs = some - set(TAKES[kind])
    for name in sorted(theirs):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise NeuroFMError(f"prepare {kind} has no option {option}: leave it out")
    return theirs


def _beam_options(given: tuple[str, ...]) -> dict[str, str]:
    if wrong := [option for option in given if "=" not in option]:
        raise NeuroFMError(f"--beam {wrong[0]} is no option: write it as NAME=VALUE")
    return dict(option.split("=", 1) for option in given)


@command("prepare")
@click.argument("kind", type=click.Choice(list(TAKES)))
@click.argument("src", type=PLACE)
@click.option("--out", type=PLACE, required=True)
@click.option(
    "--sfreq",
    type=float,
    help="Hz; default 16000 sound, 256 M/EEG, 2048 iEEG, 2 features.",
)
@click.option(
    "--channels", type=click.Choice(["first", "mean", "all"]), default="first"
)
@click.option("--labels", type=LOCAL, help="TSV, column `file`.")
@click.option("--pattern", help="Regular expression with named groups.")
@click.option("--subdirs", help="Names for the sub-folders, as columns.")
@click.option("--licence", default="", help="Terms of the recordings.")
@click.option("--workers", type=int, help="Processes; default as many as help.")
@click.option(
    "--runner", type=click.Choice(["direct", "dataflow"]), help="On Apache Beam."
)
@click.option("--beam", multiple=True, metavar="NAME=VALUE", help="Option of Beam.")
@click.option("--corpus", help="tfds: SRC is librispeech, speech_commands or esc50.")
@click.option("--audio", default="audio", help="tfds: the feature that is the sound.")
@click.option("--source-sfreq", type=float, help="tfds, iEEG: rate, if not told.")
@click.option("--data-dir", type=LOCAL, help="tfds: where SRC, a name, is prepared.")
@click.option("--picks", help="M/EEG: types or names, as MNE takes them: eeg,mag.")
@click.option("--montage", help="M/EEG: a montage of MNE, or a file of positions.")
@click.option(
    "--electrodes",
    type=LOCAL,
    help="M/EEG: TSV of name, x, y, z, unit; iEEG: of name, index, status.",
)
@click.option("--unit", help="M/EEG, iEEG: of the files' numbers: uV or fT,fT/cm.")
@click.option("--line-freq", type=float, help="M/EEG, iEEG: of the mains.")
@click.option("--notch", help="M/EEG, iEEG: Hz, 50,60 or none; default the line.")
@click.option(
    "--reference",
    type=click.Choice(["laplacian", "bipolar", "average", "none"]),
    default="laplacian",
    show_default=True,
    help="iEEG: what contacts are measured against.",
)
@click.option("--words", type=LOCAL, help="iEEG: TSV of onset, duration, word.")
@click.option("--band", default="0.1,96", show_default=True, help="M/EEG: LOW,HIGH Hz.")
@click.option(
    "--bads",
    type=click.Choice(["interpolate", "drop", "keep"]),
    default="interpolate",
    help="M/EEG: bad channels of EEG.",
)
@click.option(
    "--frame",
    type=click.Choice(["head", "released"]),
    default="head",
    help="M/EEG: of positions; released leaves MEG in the device's.",
)
@click.option(
    "--coil-types",
    type=click.Choice(["code", "released"]),
    default="code",
    help="M/EEG: released goes by the name.",
)
@click.option("--atlas", help="fMRI: name of the regions' atlas, or its image.")
@click.option("--names", type=LOCAL, help="fMRI: names of the regions, one a line.")
@click.option("--mask", type=LOCAL, help="fMRI: image of voxels, each a region.")
@click.option("--axes", help="fMRI: of arrays: time,region or subject,time,region.")
@click.option("--array", help="fMRI: its name in an NPZ, if not bold.")
@click.option("--tr", type=float, help="fMRI: seconds to interpolate runs to.")
@click.option("--source-tr", type=float, help="fMRI: theirs, if not told.")
@click.option("--confounds", help="fMRI: of fMRIPrep, by nilearn: motion,wm_csf.")
@click.option("--detrend", type=click.Choice(["none", "constant", "linear"]))
@click.option("--scale", type=click.Choice(["zscore", "none"]), help="fMRI: each run.")
@click.option("--filter", help="fMRI: LOW,HIGH Hz that are kept: 0.01,0.1.")
@click.option("--ddof", type=int, help="fMRI: 0 or 1, of the deviation; default 1.")
@click.option(
    "--grid",
    type=click.Choice(["middle", "first"]),
    help="fMRI: what meets where runs are interpolated.",
)
@click.option("--timeline", help="fMRI: words of the name that tell it: task,run.")
@click.option("--split", help="fMRI: algonauts2025 or algonauts2025-season.")
@click.option("--study", default="", help="fMRI: tells its subjects from others.")
@click.option("--only", help="fMRI: pattern of file names: *desc-preproc_bold.nii.gz.")
@click.option("--events", type=LOCAL, help="fMRI: table that places runs on timelines.")
@click.option("--extractor", help="features: log_mel, word_vectors, model, ...")
@click.option("--modality", help="features: the name that a model knows them by.")
@click.option(
    "--model",
    type=PLACE,
    help="features: an audio MODEL, or of hf_text, hf_audio, hf_video a folder.",
)
@click.option("--layers", default="0.5,0.75,1", help="features: of its depth.")
@click.option(
    "--aggregation",
    type=click.Choice(["group_mean", "none"]),
    default="group_mean",
    help="features: of the layers between these.",
)
@click.option("--vectors", type=LOCAL, help="features: a word and numbers a line.")
@click.option(
    "--payload",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    help="features: float16 takes half the space.",
)
@click.option("--subject", help="BIDS: 01,02.")
@click.option("--session", help="BIDS: values, as for subjects; so all below.")
@click.option("--task")
@click.option("--run")
@click.option("--acquisition")
@click.option("--processing")
@click.option("--datatype", help="BIDS: eeg or meg.")
@click.option("--tokenizer", type=PLACE, help="codes: a trained BrainTokenizer.")
@click.option(
    "--segment",
    "segment_s",
    type=float,
    help="codes, superlets: seconds; default 30 and 5.",
)
@click.option("--overlap", type=float, default=0.25, help="codes: share of a window.")
@click.option("--batch-size", type=int, default=16, help="codes, features: at once.")
def prepare_command(kind: str, src: Place, sfreq: float | None, **arguments: Any):
    """Turn recordings into record shards.

    KIND audio takes a folder of sound files, meeg a folder of EEG and MEG in any format
    that MNE reads, bids a BIDS tree of these, ieeg a folder of intracranial EEG (the
    same formats, or HDF5), fmri a folder of runs in regions (NPZ,
    NPY, TSV, HDF5) or as images (NIfTI, CIFTI), features a table of events in stimuli;
    each goes on if it was interrupted. For audio SRC and --out may be addresses in a
    store. tfds takes a dataset that TensorFlow Datasets prepared as array_record, by
    its folder or its name, or with --corpus the original files. codes runs --tokenizer
    over a dataset of EEG and MEG, once, to train with task.train_on=codes; superlets
    takes one of intracranial EEG, to train with task.spectrogram=superlets.
    """
    if sfreq is not None and kind == "fmri":
        raise NeuroFMError("prepare fmri has no option --sfreq: give --tr in seconds")
    theirs = _of_another_kind(kind)
    arguments = {k: v for k, v in arguments.items() if k not in theirs}
    arguments["progress"] = counter("prepared")
    if kind in ("codes", "superlets"):
        summary = _prepare_from_dataset(kind, src, sfreq, arguments)
        return summary.to_json(), table(shown(summary))
    sfreq = _SFREQ.get(kind, 0.0) if sfreq is None else sfreq
    if kind == "tfds":
        from data_pipelines import tfds_records

        summary = tfds_records.prepare(src, sfreq=sfreq, **arguments)
    elif kind == "audio":
        from data_pipelines import audio

        arguments["beam_options"] = _beam_options(arguments.pop("beam"))
        summary = audio.prepare(src, sfreq=sfreq, **arguments)
    else:
        for place in (src, arguments["out"]):
            if not isinstance(place, Path):
                raise NeuroFMError(
                    f"{place} is in a store, and brains are prepared on a disk: "
                    "copy the recordings here, and the dataset to the store afterwards"
                )
        assert isinstance(src, Path)
        if kind == "fmri":
            summary = _prepare_fmri(src, arguments)
        elif kind == "ieeg":
            summary = _prepare_ieeg(src, sfreq, arguments)
        elif kind == "features":
            summary = _prepare_features(src, sfreq, arguments)
        else:
            summary = _prepare_meeg(kind, src, sfreq, arguments)
    return summary.to_json(), table(shown(summary))


def _prepare_from_dataset(
    kind: str, src: Place, sfreq: float | None, arguments: dict[str, Any]
) -> "Summary":
    if sfreq is not None or arguments.pop("licence"):
        raise NeuroFMError(
            f"prepare {kind} takes rate and licence from the dataset: leave out "
            "--sfreq and --licence"
        )
    if not isinstance(arguments["out"], Path):
        raise NeuroFMError(
            f"{arguments['out']} is in a store, and {kind} are prepared on a disk: "
            "copy the dataset to the store afterwards"
        )
    if arguments["segment_s"] is None:
        del arguments["segment_s"]
    if kind == "superlets":
        from data_pipelines.superlets import prepare as prepare_superlets

        return prepare_superlets(src, **arguments)
    if arguments["tokenizer"] is None:
        raise NeuroFMError(
            "prepare codes needs --tokenizer MODEL: a run of brainomni/tokenizer, or "
            "what `neurofm import braintokenizer` wrote"
        )
    from data_pipelines.codes import prepare

    return prepare(src, **arguments)


def _prepare_meeg(
    kind: str, src: Path, sfreq: float, arguments: dict[str, Any]
) -> "Summary":
    settings = _settings(sfreq, {name: arguments.pop(name) for name in _MEEG})
    if kind == "meeg":
        from data_pipelines.meeg.prepare import prepare

        return prepare(src, settings=settings, **arguments)
    from data_pipelines.meeg import bids

    entities = {name: _words(arguments.pop(name)) for name in _ENTITIES}
    only = {name: values for name, values in entities.items() if values}
    return bids.prepare(src, settings=settings, only=only, **arguments)


def _prepare_ieeg(src: Path, sfreq: float, arguments: dict[str, Any]) -> "Summary":
    from data_pipelines.ieeg.prepare import prepare
    from data_pipelines.ieeg.settings import Settings

    given = {name: arguments.pop(name) for name in _IEEG}
    given["electrodes"] = given["electrodes"] and str(given["electrodes"])
    given["notch"] = _frequencies(given["notch"])
    return prepare(src, settings=Settings(sfreq=sfreq, **given), **arguments)


def _prepare_fmri(src: Path, arguments: dict[str, Any]) -> "Summary":
    from data_pipelines.fmri.prepare import prepare
    from data_pipelines.fmri.settings import Settings

    given = {name: arguments.pop(name) for name in _FMRI}
    for name in ("axes", "confounds", "timeline"):
        given[name] = _words(given[name])
    for name in ("names", "mask"):
        given[name] = given[name] and str(given[name])
    if given["filter"] is not None:
        band = numbers("filter", given["filter"])
        if len(band) != 2:
            raise NeuroFMError(f"--filter has {len(band)} number(s); expected LOW,HIGH")
        given["filter"] = (band[0], band[1])
    said = {name: value for name, value in given.items() if value is not None}
    return prepare(src, settings=Settings(**said), **arguments)


def _prepare_features(src: Path, sfreq: float, arguments: dict[str, Any]) -> "Summary":
    from data_pipelines.features.choose import NAMES, Asked
    from data_pipelines.features.prepare import prepare

    given = {name: arguments.pop(name) for name in _FEATURES}
    if not (name := given.pop("extractor")):
        raise NeuroFMError(f"--extractor is missing: give one of {', '.join(NAMES)}")
    for option in ("model", "vectors"):
        given[option] = given[option] and str(given[option])
    given["layers"] = numbers("layers", given["layers"])
    return prepare(src, asked=Asked(name, **given), sfreq=sfreq, **arguments)


def _settings(sfreq: float, given: dict[str, Any]) -> "Settings":
    from data_pipelines.meeg.settings import Settings

    electrodes, given["notch"] = given.pop("electrodes"), _frequencies(given["notch"])
    if electrodes and given["montage"]:
        raise NeuroFMError("--montage and --electrodes both give positions; leave one")
    if electrodes:
        given["montage"] = str(electrodes)
    band = numbers("band", given.pop("band"))
    if len(band) != 2:
        raise NeuroFMError(f"--band has {len(band)} number(s); expected LOW,HIGH")
    lists = {name: _words(given.pop(name)) for name in ("picks", "unit")}
    return Settings(sfreq=sfreq, band=(band[0], band[1]), **lists, **given)


def _frequencies(notch: str | None) -> tuple[float, ...] | None:
    if notch is None:
        return None
    return () if notch == "none" else numbers("notch", notch)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
