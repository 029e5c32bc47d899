"""The HEAR API for tensors of torch, as the official validator wants it.

    hear-validator neurofm.hear_torch --model runs/mine

The network itself runs in JAX: no gradient passes through it. Needs the extra `torch`.
"""

import os

import numpy as np

from neurofm import hear
from neurofm.errors import NeuroFMError

try:
    import torch  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise NeuroFMError(
        "neurofm.hear_torch needs PyTorch, which is not installed: install the extra, "
        "pip install 'neurofm[torch]', or use neurofm.hear, which does without"
    ) from error


class HearModule(torch.nn.Module):
    """`hear.HearModel` as a module without parameters; its forward gives scenes."""

    def __init__(self, inner: hear.HearModel):
        super().__init__()
        self.inner = inner
        self.sample_rate = inner.sample_rate
        self.scene_embedding_size = inner.scene_embedding_size
        self.timestamp_embedding_size = inner.timestamp_embedding_size

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return get_scene_embeddings(audio, self)


def load_model(model_file_path: str | os.PathLike = "") -> HearModule:
    """See `hear.load_model`."""
    return HearModule(hear.load_model(model_file_path))


def get_scene_embeddings(audio: torch.Tensor, model: HearModule) -> torch.Tensor:
    """See `hear.get_scene_embeddings`; on the device of `audio`."""
    found = hear.get_scene_embeddings(_samples(audio), model.inner)
    return torch.from_numpy(found).to(audio.device)


def get_timestamp_embeddings(
    audio: torch.Tensor, model: HearModule
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `hear.get_timestamp_embeddings`; on the device of `audio`."""
    found, at = hear.get_timestamp_embeddings(_samples(audio), model.inner)
    at = torch.from_numpy(at.astype(np.float32))
    return torch.from_numpy(found).to(audio.device), at.to(audio.device)


def _samples(audio: torch.Tensor) -> np.ndarray:
    return audio.detach().cpu().numpy()
