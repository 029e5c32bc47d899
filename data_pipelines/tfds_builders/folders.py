"""Corpora as tfds builders, from the files as they were published.

Nothing is downloaded: the unpacked corpus is the `manual_dir`. Features are plain
(tfds' `Audio` needs TensorFlow): samples as 16-bit integers, `sfreq` in Hz, `file`.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile
import tensorflow_datasets as tfds

Example = tuple[str, dict[str, Any]]

# Folders of LibriSpeech (openslr.org/12); tfds allows no dash in a split's name.
LIBRISPEECH = ("train-clean-100", "train-clean-360", "train-other-500")
LIBRISPEECH += ("dev-clean", "dev-other", "test-clean", "test-other")


def sound(root: Path, file: Path) -> dict[str, Any]:
    """The features that every corpus has; sounds of one channel and 16 bits."""
    samples, sfreq = soundfile.read(file, dtype="int16", always_2d=True)
    return {
        "audio": np.ascontiguousarray(samples[:, 0]),
        "sfreq": sfreq,
        "file": file.relative_to(root).as_posix(),
    }


class _Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the builders share: their description and the features of `sound`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The files as published."}
    LABELS: ClassVar[dict[str, Any]] = {}
    HOMEPAGE = ""

    def _info(self) -> tfds.core.DatasetInfo:
        wave = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
        common = {"audio": wave, "sfreq": np.int32, "file": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(common | self.LABELS),
            homepage=self.HOMEPAGE,
        )


class NeurofmLibrispeech(_Corpus):
    """LibriSpeech (Panayotov et al., 2015), utterances with speaker and transcript."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack the archives of openslr.org/12."
    HOMEPAGE = "https://www.openslr.org/12"
    LABELS: ClassVar[dict[str, Any]] = {
        "speaker": tfds.features.Text(),
        "chapter": tfds.features.Text(),
        "text": tfds.features.Text(),
    }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
        root = Path(dl_manager.manual_dir)
        root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
        parts = [name for name in LIBRISPEECH if (root / name).is_dir()]
        return {n.replace("-", "_"): self._generate_examples(root, n) for n in parts}

    def _generate_examples(self, root: Path, part: str) -> Iterator[Example]:
        for table in sorted((root / part).glob("*/*/*.trans.txt")):
            for line in table.read_text(encoding="utf-8").splitlines():
                name, _, text = line.partition(" ")
                speaker, chapter, _ = name.split("-")
                labels = {"speaker": speaker, "chapter": chapter, "text": text}
                yield name, sound(root, table.with_name(f"{name}.flac")) | labels


class NeurofmSpeechCommands(_Corpus):
    """Speech Commands (Warden, 2018): a word a second, split by the lists in it."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack speech_commands_v0.02.tar.gz."
    HOMEPAGE = "https://arxiv.org/abs/1804.03209"
    LABELS: ClassVar[dict[str, Any]] = {
        "word": tfds.features.Text(),
        "speaker": tfds.features.Text(),
    }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
        root = Path(dl_manager.manual_dir)
        lists = {"validation": "validation_list.txt", "test": "testing_list.txt"}
        split = {
            file: name
            for name, table in lists.items()
            for file in (root / table).read_text().split()
        }
        # `_background_noise_` holds minutes of noise and no word.
        files = [f"{f.parent.name}/{f.name}" for f in root.glob("[!_]*/*.wav")]
        return {
            name: self._generate_examples(
                root, sorted(f for f in files if split.get(f, "train") == name)
            )
            for name in ("train", "validation", "test")
        }

    def _generate_examples(self, root: Path, files: list[str]) -> Iterator[Example]:
        for file in files:
            word, name = file.split("/")
            labels = {"word": word, "speaker": name.split("_nohash_")[0]}
            yield file, sound(root, root / file) | labels


class NeurofmEsc50(_Corpus):
    """ESC-50 (Piczak, 2015): 2,000 sounds of 50 classes in five folds."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack the repository karolpiczak/ESC-50."
    HOMEPAGE = "https://github.com/karolpiczak/ESC-50"
    LABELS: ClassVar[dict[str, Any]] = {
        "category": tfds.features.Text(),
        "fold": np.int32,
        "esc10": np.bool_,
        "source": tfds.features.Text(),
    }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
        return {"train": self._generate_examples(Path(dl_manager.manual_dir))}

    def _generate_examples(self, root: Path) -> Iterator[Example]:
        with open(root / "meta" / "esc50.csv", newline="") as table:
            for row in csv.DictReader(table):
                labels = {
                    "category": row["category"],
                    "fold": int(row["fold"]),
                    "esc10": row["esc10"] == "True",
                    "source": row["src_file"],
                }
                file = root / "audio" / row["filename"]
                yield row["filename"], sound(root, file) | labels


BUILDERS = {
    "librispeech": NeurofmLibrispeech,
    "speech_commands": NeurofmSpeechCommands,
    "esc50": NeurofmEsc50,
}
