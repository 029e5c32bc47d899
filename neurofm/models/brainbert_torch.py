"""BrainBERT's trained encoder in PyTorch, from a model folder of neurofm.

    encoder = BrainBERTEncoder("this/folder")  # without a path: the folder of this file
    tokens = encoder(signal)                   # (B, C, N) -> (B, T, C x H)

It takes what a module of braindecode takes, (recordings, channels, times), and gives
what `neurofm.load(folder).embed(recording, sampling_rate)` gives: each electrode is
read by itself, and the H values of every one lie side by side. It takes part in
backward passes. Needs torch and safetensors; `neurofm export --torch` copies this file,
so it imports nothing else.

Axes: B recordings, C electrodes, N samples of a recording, n of a window, W of a frame,
T frames (tokens), F frequencies, H width.
"""

import json
import math
import re
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file
from torch import nn  # pyright: ignore[reportMissingImports]

RENAMED = {  # of parameters, to those of torch
    r"^blocks_0*(\d+)/": r"blocks/\1/",
    "/attn/out/": "/self_attn/out_proj/",
    "/mlp_in/": "/linear1/",
    "/mlp_out/": "/linear2/",
    "/norm_attn/": "/norm1/",
    "/norm_mlp/": "/norm2/",
    "/(scale|kernel)$": "/weight",
}


class BrainBERTEncoder(nn.Module):
    """Volts to tokens: spectrogram, scores by frequency, transformer.

    Attributes:
      sampling_rate: of the recordings to give, in Hz.
      output_dim: H, of one electrode.
      hop_size_in_ms: from one token to the next.
    """

    def __init__(self, folder=None):
        super().__init__()
        folder = Path(__file__).parent if folder is None else Path(folder)
        task = json.loads((folder / "config.json").read_text())["task"]
        if task["spectrogram"] != "stft":
            raise ValueError("it reads a store of superlets, which no module makes")
        self.window, self.scores = task["window_samples"], task["scores"]
        self.hop, self.edge = task["hop_samples"], task["edge_frames"]
        self.sampling_rate = task["sfreq"]
        self.output_dim = width = task["width"]
        self.hop_size_in_ms = 1000 * self.hop / self.sampling_rate

        waves = hann_waves(task["frame_samples"], task["n_freqs"])
        self.register_buffer("waves", waves, persistent=False)
        self.project = nn.Linear(task["n_freqs"], width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                task["heads"],
                task["mlp_width"],
                task["dropout"],
                "gelu",
                batch_first=True,
            )
            for _ in range(task["depth"])
        )
        self.load_state_dict(weights(folder / "model.safetensors"))
        self.eval()

    def forward(self, signal):
        """Tokens of the last layer.

        Args:
          signal: recordings of one length in V at `sampling_rate`, with the reference
            that config.json names: (C, N) or (B, C, N).

        Returns:
          (B, T, C x H). Windows follow one another without overlap.
        """
        signal = signal[None] if signal.ndim == 2 else signal
        n_chans = signal.shape[1]
        traces = signal.flatten(0, 1).float()
        tokens = [self._read(window) for window in traces.split(self.window, dim=-1)]
        tokens = torch.cat(tokens, dim=1)  # (B x C, T, H)
        if not tokens.shape[1]:
            raise ValueError(
                f"{signal.shape[-1]} samples make no token, as {self.edge} frames are "
                "left out at each end: give longer recordings"
            )
        return tokens.unflatten(0, (-1, n_chans)).transpose(1, 2).flatten(2)

    def _read(self, window):
        """(B, n) -> (B, T, H)."""
        n, frames = window.shape[-1], 1 + math.ceil(window.shape[-1] / self.hop)
        if frames <= 2 * self.edge:
            return window.new_zeros(len(window), 0, self.output_dim)
        inner = slice(self.edge, frames - self.edge)
        x = self._amplitudes(window, frames)
        if self.scores == "all_frames":
            x = scored(x)[:, inner]
        else:
            x = scored(x[:, inner])
        x = self.project(x) + positions(x.shape[1], self.output_dim).to(x.device)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        at = torch.arange(frames)[inner] * self.hop
        seconds = (at.double() / self.sampling_rate).float()
        inside = seconds.double() * self.sampling_rate < n
        return x[:, inside.to(x.device)]

    def _amplitudes(self, x, frames):
        """(B, n) -> (B, T, F); the first frame is centred on the first sample."""
        width = self.waves.shape[-1]
        long = (frames - 1) * self.hop + width
        x = F.pad(x, (width // 2, long))[:, None, :long]
        parts = F.conv1d(x, self.waves, stride=self.hop).unflatten(1, (2, -1))
        return parts.square().sum(1).sqrt().mT


def hann_waves(width, n_freqs):
    """Cosines and sines under a Hann window over its sum, (2 x F, 1, W)."""
    at = torch.arange(width)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * at.double() / width)
    turns = (torch.arange(n_freqs)[:, None] * at) % width
    angles = 2 * math.pi * turns.double() / width
    waves = torch.cat([angles.cos(), angles.sin()]) * (hann / hann.sum())
    return waves[:, None].float()


def scored(x):
    """(B, T, F) with mean 0 and deviation 1 a frequency; ones where nothing changes."""
    centred = x - x.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    scores = centred / torch.where(deviation > 0, deviation, 1.0)
    changes = (deviation > 0).any(dim=2, keepdim=True)
    return torch.where(changes, scores, 1.0)


def positions(n_tokens, width):
    """Sines in even features, cosines in odd ones, (T, H)."""
    rates = 10_000.0 ** (-torch.arange(width // 2).double() / (width / 2))
    angles = torch.arange(n_tokens).double()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def weights(path):
    """The arrays of a model folder under the names, and in the forms, of torch."""
    state = {}
    for name, x in load_file(path).items():
        kind, _, name = name.partition("/")
        if kind != "params" or name.startswith("head/"):
            continue
        for ours, theirs in RENAMED.items():
            name = re.sub(ours, theirs, name)
        if name.endswith("/weight") and x.ndim > 1:  # (in, out), by heads or not
            x = (x.flatten(0, -2) if "out_proj" in name else x.flatten(1)).T
        state[name.replace("/", ".")] = x.flatten() if "bias" in name else x
    for query in [name for name in state if ".attn.query." in name]:
        parts = [
            state.pop(query.replace("query", n)) for n in ("query", "key", "value")
        ]
        state[query.replace("attn.query.", "self_attn.in_proj_")] = torch.cat(parts)
    return state
