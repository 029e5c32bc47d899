"""WavJEPA's trained encoder in PyTorch, from a model folder of neurofm.

    encoder = WavJEPAEncoder("this/folder")  # without a path: the folder of this file
    tokens = encoder(audio)                  # (B, N) -> (B, T, D), D = output_dim

It gives what `neurofm.load(folder).embed(audio, sampling_rate)` gives and takes part in
backward passes. Attributes are those that X-ARES asks of an encoder. Needs torch and
safetensors; `neurofm export --torch` copies this file, so it imports nothing else.

Axes: B sounds, C channels, N samples of a sound, U samples of a window, S tokens of a
window, T of a sound, F stem features, D width.
"""

import json
import re
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file
from torch import nn  # pyright: ignore[reportMissingImports]

DBFS = -14.0  # root mean square that every sound is brought to
RENAMED = {  # of parameters, to those of torch
    "^encoder/": "",
    r"^blocks_0*(\d+)/": r"blocks/\1/",
    "/attn/out/": "/self_attn/out_proj/",
    "/mlp_in/": "/linear1/",
    "/mlp_out/": "/linear2/",
    "/norm_attn/": "/norm1/",
    "/norm_mlp/": "/norm2/",
    "/(scale|kernel)$": "/weight",
}
TRAINING = ("predictor", "to_predictor", "from_predictor", "mask_token")


class WavJEPAEncoder(nn.Module):
    """Sound to tokens: stem, projection, positions, transformer.

    Attributes:
      sampling_rate: of the sound to give, in Hz.
      output_dim: D.
      hop_size_in_ms: from one token to the next.
    """

    def __init__(self, folder=None):
        super().__init__()
        folder = Path(__file__).parent if folder is None else Path(folder)
        task = json.loads((folder / "config.json").read_text())["task"]
        layers, width = task["conv_layers"], task["width"]
        self.n_chans, self.window = task["n_chans"], task["window_samples"]
        self.crop_norm, self.statistics = task["crop_norm"], task["statistics"]
        self.hop, self.receptive = 1, 1
        for _, kernel, stride in layers:
            self.receptive += (kernel - 1) * self.hop
            self.hop *= stride
        self.sampling_rate = int(task["sfreq"])
        self.output_dim = width
        self.hop_size_in_ms = 1000 * self.hop / task["sfreq"]

        for c in range(self.n_chans):
            self.add_module(f"stem_{c}", Stem(layers))
        self.feature_norm = nn.LayerNorm(layers[-1][0], eps=1e-5)
        if layers[-1][0] != width:
            self.project = nn.Linear(layers[-1][0], width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, task["heads"], 4 * width, 0.0, "gelu", 1e-6, batch_first=True
            )
            for _ in range(task["depth"])
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)
        table = positions(self._tokens(self.window), width, self.n_chans)
        self.register_buffer("positions", table, persistent=False)
        self.load_state_dict(weights(folder / "model.safetensors"))
        self.eval()

    def forward(self, audio):
        """Tokens of the last layer.

        Args:
          audio: sounds of one length in [-1, 1] at `sampling_rate`: (N,), (B, N) or
            (B, C, N). One channel goes to both ears of a binaural model.

        Returns:
          (B, T, D), channels averaged. Windows follow one another without overlap.
        """
        if audio.ndim < 3:
            audio = audio.reshape(-1, 1, audio.shape[-1])
        if audio.shape[1] not in (1, self.n_chans):
            raise ValueError(
                f"{audio.shape[1]} channels were given and the model takes "
                f"{self.n_chans}: give audio as (B, C, N)"
            )
        audio = loudness(audio.expand(-1, self.n_chans, -1).float())
        tokens = [self._read(window) for window in audio.split(self.window, dim=-1)]
        tokens = torch.cat(tokens, dim=1)
        if not tokens.shape[1]:
            raise ValueError(
                f"{audio.shape[-1]} samples make no token, which sees "
                f"{self.receptive}: give longer sounds"
            )
        return tokens

    def _tokens(self, n_samples):
        return max(0, (n_samples - self.receptive) // self.hop + 1)

    def _read(self, window):
        """(B, C, n) with n <= U -> (B, S, D)."""
        n = window.shape[-1]
        if self.statistics == "unit":  # as released: padding is part of the window
            window, kept = F.pad(window, (0, self.window - n)), self._released(n)
        else:
            kept = self._tokens(n)
        if kept < 1:
            return window.new_zeros(len(window), 0, self.output_dim)
        if self.crop_norm == "instance":
            window = normalize(window)
        stems = [self.get_submodule(f"stem_{c}") for c in range(self.n_chans)]
        features = [stem(window[:, c]) for c, stem in enumerate(stems)]
        x = self.feature_norm(torch.stack(features, dim=1))  # (B, C, S, F)
        x = self.project(x) if hasattr(self, "project") else x
        x = x[:, :, :kept] + self.positions[:, :kept]
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).unflatten(1, (self.n_chans, kept)).mean(1)
        centres = torch.arange(kept, dtype=torch.float64) * self.hop
        seconds = (centres + self.receptive / 2) / self.sampling_rate
        inside = seconds.float().double() * self.sampling_rate < n
        return x[:, inside.to(x.device)]

    def _released(self, n):
        """Tokens that the released rule keeps of a padded window."""
        whole = int(self.window // self.sampling_rate)
        if not whole:
            return self._tokens(n)
        tokens = self._tokens(self.window)
        rate = tokens // whole
        return tokens - int((self.window - n) / self.sampling_rate * rate)


class Stem(nn.Module):
    """(B, U) -> (B, S, F): strided convolutions, the first normed over time."""

    def __init__(self, layers):
        super().__init__()
        n_in = 1
        for i, (features, kernel, stride) in enumerate(layers):
            conv = nn.Conv1d(n_in, features, kernel, stride, bias=False)
            self.add_module(f"conv_{i}", conv)
            n_in = features
        self.depth = len(layers)
        self.norm = nn.GroupNorm(layers[0][0], layers[0][0], eps=1e-5)

    def forward(self, x):
        x = x[:, None]
        for i in range(self.depth):
            x = self.get_submodule(f"conv_{i}")(x)
            x = F.gelu(self.norm(x) if i == 0 else x)
        return x.mT


def loudness(audio):
    """Every sound at -14 dBFS, its channels together; silence stays."""
    rms = audio.double().square().mean(dim=(1, 2), keepdim=True).sqrt()
    gain = torch.where(rms > 0, 10 ** (DBFS / 20) / rms, 1.0)
    return audio * gain.to(audio.dtype)


def normalize(window):
    """Mean 0 and deviation 1 over the channels and samples of a window."""
    centred = window - window.mean(dim=(1, 2), keepdim=True)
    n = centred[0].numel()
    deviation = (centred.square().sum(dim=(1, 2), keepdim=True) / max(n - 1, 1)).sqrt()
    return centred / (deviation + 1e-5)


def positions(n_tokens, width, n_chans):
    """Sines and cosines, (C, S, D); of two channels half the width tells them apart."""

    def table(n, width):
        rates = 10_000.0 ** (-torch.arange(width // 2).double() / (width / 2))
        angles = torch.arange(n).double()[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()

    if n_chans == 1:
        return table(n_tokens, width)[None]
    time, ear = table(n_tokens, width // 2), table(1, width // 2)
    codes = (torch.zeros_like(ear), ear)
    return torch.stack([torch.cat([time, c.expand_as(time)], dim=1) for c in codes])


def weights(path):
    """The arrays of a model folder under the names, and in the forms, of torch."""
    state = {}
    for name, x in load_file(path).items():
        kind, _, name = name.partition("/")
        if kind != "params" or name.split("/")[0] in TRAINING:
            continue
        for ours, theirs in RENAMED.items():
            name = re.sub(ours, theirs, name)
        if name.startswith("stem") and x.ndim == 3:  # (k, in, out)
            name, x = f"{name}/weight", x.permute(2, 1, 0)
        elif name.endswith("/weight") and x.ndim > 1:  # (in, out), by heads or not
            x = (x.flatten(0, -2) if "out_proj" in name else x.flatten(1)).T
        state[name.replace("/", ".")] = x.flatten() if "bias" in name else x
    for query in [name for name in state if ".attn.query." in name]:
        parts = [
            state.pop(query.replace("query", n)) for n in ("query", "key", "value")
        ]
        state[query.replace("attn.query.", "self_attn.in_proj_")] = torch.cat(parts)
    return state
