"""The extractor that a user asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.features.extractors import Extractor, Motion, OfSound
from data_pipelines.features.own_arrays import Arrays, read_array
from data_pipelines.features.vectors import Vectors
from data_pipelines.features.words import WordRate, WordVectors
from neurofm.errors import NeuroFMError
from neurofm.registry import suggest
from neurofm.signals import classic
from neurofm.signals.layers import Aggregation


@dataclass(frozen=True)
class Asked:
    """What a user says of an extractor.

    Attributes:
      name: one of `NAMES`.
      modality: in place of the extractor's own.
      model: a MODEL, for `model`; for `hf_...` the folder of a Hugging Face model.
      layers: fractions of its depth that bound its layer groups, or `last`.
      aggregation: of the layers of a group.
      vectors: table of word vectors, for `word_vectors`.
      batch_size: windows, words or clips that a model reads at once.
    """

    name: str
    modality: str | None = None
    model: str | None = None
    layers: tuple[float, ...] = (0.5, 0.75, 1.0)
    aggregation: Aggregation = "group_mean"
    vectors: str | None = None
    batch_size: int = 16


NAMES = ("log_mel", "envelope", "motion_energy", "word_rate", "word_vectors", "array")
NAMES += ("model", "hf_text", "hf_audio", "hf_video")
_NEEDS = {"word_vectors": "vectors", "model": "model"}
_NEEDS |= {"hf_text": "model", "hf_audio": "model", "hf_video": "model"}


def build(asked: Asked, first: Callable[[str], Path]) -> Extractor:
    """The extractor a user asks for.

    Args:
      first: type of event -> the file of the first of that type.

    Raises:
      NeuroFMError: there is none of that name, or it needs more to be said.
    """
    if asked.name not in NAMES:
        raise NeuroFMError(
            f"--extractor {asked.name!r}: {suggest(asked.name, list(NAMES))}"
        )
    for option in ("model", "vectors"):
        given = getattr(asked, option)
        if (_NEEDS.get(asked.name) == option) != (given is not None):
            verb = "needs" if given is None else "takes no"
            raise NeuroFMError(f"--extractor {asked.name} {verb} --{option}")
    if asked.name == "array":
        if asked.modality is None:
            raise NeuroFMError("--extractor array needs --modality NAME")
        frames, _ = read_array(first("array"))
        layers, width = frames.shape[:2]
        return Arrays(layers, width, "array", asked.modality)
    if asked.name == "word_vectors":
        return WordVectors(Vectors.read(Path(asked.vectors or "")))
    if asked.name == "model":
        from data_pipelines.features.sound_model import SoundModel

        return SoundModel(
            asked.model or "", asked.layers, asked.aggregation, asked.batch_size
        )
    if asked.name.startswith("hf_"):
        return _of_hugging_face(asked)
    plain: dict[str, Extractor] = {
        "log_mel": OfSound("log_mel", classic.N_MELS, classic.log_mel_steps),
        "envelope": OfSound("envelope", 1, classic.envelope),
        "motion_energy": Motion(),
        "word_rate": WordRate(),
    }
    return plain[asked.name]


def _of_hugging_face(asked: Asked) -> Extractor:
    from data_pipelines.features.hf.audio import Audio
    from data_pipelines.features.hf.text import Text
    from data_pipelines.features.hf.video import Video

    how = asked.model or "", asked.layers, asked.aggregation
    if asked.name == "hf_audio":
        return Audio(*how)
    kind = Text if asked.name == "hf_text" else Video
    return kind(*how, asked.batch_size)
