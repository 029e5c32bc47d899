"""A model of Hugging Face's transformers in a local folder, and its hidden states.

Nothing is fetched and no code of the folder is run: weights are safetensors, the model
is one that the installed transformers knows.

Axes: N hidden states (embedding first), B inputs, T tokens, D width.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from neurofm.errors import NeuroFMError

# Without these files transformers makes up a tokenizer that knows no word.
_VOCABULARY = ("tokenizer.json", "vocab.*", "*.model")
# Parts that a checkpoint may lack, as no hidden state comes through them.
_BESIDE = ("pooler", "masked_spec_embed", "predictor")


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that is ready to read.

    Attributes:
      path: its folder.
      id: kind of model, and digest of its configuration and weights.
      network: the module, in evaluation.
      device: where it lies, as torch names it.
    """

    path: Path
    id: str
    network: Any
    device: str

    @property
    def config(self) -> Any:
        """Its configuration."""
        return self.network.config

    def states(
        self,
        inputs: Mapping[str, Shaped[np.ndarray, "B ..."]],
        pool: Callable[[Any], Any],
        **more: Any,
    ) -> Float[np.ndarray, "N B ..."]:
        """All hidden states, each after `pool`, a function of tensors.

        Raises:
          NeuroFMError: the model cannot read it, or its layers have unlike sizes.
        """
        torch: Any = import_module("torch")
        given = {k: torch.from_numpy(x).to(self.device) for k, x in inputs.items()}
        try:
            with torch.inference_mode():
                out = self.network(**given, **more, output_hidden_states=True)
                pooled = [pool(state.float()) for state in out.hidden_states]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            sizes = ", ".join(f"{k} {list(x.shape)}" for k, x in inputs.items())
            raise NeuroFMError(
                f"the model in {self.path} cannot read {sizes} ({_first_line(error)}): "
                "see whether its tokenizer or preprocessor is that of another model"
            ) from error
        if len({x.shape for x in pooled}) > 1:
            raise NeuroFMError(
                f"the hidden states of {self.path} have different sizes: layers of "
                "such a model make no groups"
            )
        return torch.stack(pooled).cpu().numpy()


def opened(path: str, inputs: tuple[str, ...]) -> Opened:
    """The model of a folder, kept while its features are made.

    Args:
      inputs: names of the main input that the caller can give.

    Raises:
      NeuroFMError: the extra is not installed; the folder is no such model, or one that
        takes something else.
    """
    _require()
    found = _load(path)
    name = found.network.main_input_name
    if name not in inputs or found.config.sub_configs:
        raise NeuroFMError(
            f"{path} is a {found.config.model_type}, which takes {name}"
            f"{' and more' if found.config.sub_configs else ''}; this extractor gives "
            f"{' or '.join(inputs)}: give the folder of one model for that alone"
        )
    return found


def tokenizer(path: Path) -> Any:
    """The tokenizer in a folder; see `part_of`."""
    if not any(any(path.glob(name)) for name in _VOCABULARY):
        raise NeuroFMError(
            f"{path} holds no tokenizer (one of {', '.join(_VOCABULARY)}): copy the "
            "whole folder of the model"
        )
    return part_of(path, "AutoTokenizer")


def part_of(path: Path, kind: str) -> Any:
    """A part in a folder by the name of its class, such as `AutoFeatureExtractor`.

    Raises:
      NeuroFMError: the folder has none.
    """
    transformers: Any = import_module("transformers")
    try:
        return getattr(transformers, kind).from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises errors of many kinds
        raise NeuroFMError(
            f"{path} holds nothing that transformers takes for its {kind} "
            f"({_first_line(error)}): copy the whole folder of the model"
        ) from error


def _require() -> None:
    if missing := [n for n in ("transformers", "torch") if find_spec(n) is None]:
        raise NeuroFMError(
            f"models of Hugging Face are read with {' and '.join(missing)}, which "
            "is not installed: pip install 'neurofm[hf]'"
        )


@functools.lru_cache(maxsize=1)
def _load(path: str) -> Opened:
    folder = Path(path)
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise NeuroFMError(
            f"{path} is no folder of a Hugging Face model with config.json and weights "
            "in *.safetensors (pickled ones are not read, and nothing is fetched): "
            "give one that lies on this machine"
        )
    transformers: Any = import_module("transformers")
    torch: Any = import_module("torch")
    transformers.utils.logging.disable_progress_bar()
    try:
        network, told = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises errors of many kinds
        raise NeuroFMError(
            f"transformers {transformers.__version__} cannot load {path} "
            f"({_first_line(error)}): give a model that it knows by itself"
        ) from error
    missing = sorted(told["missing_keys"])
    if lacking := [n for n in missing if not any(part in n for part in _BESIDE)]:
        raise NeuroFMError(
            f"{path} lacks {len(lacking)} weights of its model ({lacking[0]}, ...), "
            "which would be random numbers: copy the whole folder"
        )
    if network.config.is_encoder_decoder:
        raise NeuroFMError(
            f"{path} is an encoder with a decoder ({network.config.model_type}): give "
            "an encoder, or a causal model"
        )
    digest = hashlib.sha256()
    for file in (folder / "config.json", *weights):
        with open(file, "rb") as held:
            digest.update(hashlib.file_digest(held, "sha256").digest())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"{network.config.model_type} sha256:{digest.hexdigest()[:16]}"
    return Opened(folder, name, network.eval().to(device), device)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
