"""Binaural scenes: a clip and a noise heard in a room, mixed at a chosen SNR per ear.

Every function is pure, works on a batch inside `jit`, and takes its draws as arguments.

Axis letters: B items, E ears, N samples of a clip, M samples of a noise buffer,
K positions in a room, R samples of an impulse response.

Source: WavJEPA-Nat (arXiv 2509.23238) and its released code, scene preparation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import scipy.fft
from jaxtyping import Array, Float, Int

FADE_S = 0.2


class SceneDraws(NamedTuple):
    """What is random in a scene; `draw_scene` makes it for one item, vmap for more.

    Attributes:
      snr_db: signal-to-noise ratio in dB, one value for both ears.
      offset: clip sample at which the noise begins; negative where the noise is longer
        than the clip and its start is cut away.
    """

    snr_db: Float[Array, " *B"]
    offset: Int[Array, " *B"]


def draw_scene(
    key: jax.Array,
    n_noise: Int[Array, ""] | int,
    n_samples: Int[Array, ""] | int,
    snr_range: tuple[float, float] = (5.0, 40.0),
) -> SceneDraws:
    """Draw the SNR, and where a noise of `n_noise` samples lies in the clip.

    The SNR is uniform in `snr_range`. A noise no longer than the clip begins anywhere
    it still fits, both extremes included; a longer one is cut from its start.
    """
    snr_key, offset_key = jax.random.split(key)
    slack = jnp.maximum(jnp.asarray(n_samples) - jnp.asarray(n_noise), 0)
    return SceneDraws(
        snr_db=jax.random.uniform(
            snr_key, minval=jnp.float32(snr_range[0]), maxval=jnp.float32(snr_range[1])
        ),
        offset=jax.random.randint(offset_key, (), 0, slack + 1),
    )


def scene(
    clip: Float[Array, "B N"],
    noise: Float[Array, "B M"],
    n_noise: Int[Array, " B"],
    rirs: Float[Array, "B K E R"],
    draws: SceneDraws,
    sfreq: float,
    n_clip: Int[Array, " B"] | None = None,
) -> Float[Array, "B E N"]:
    """Make a binaural scene of each item: a clip from one place, a noise from others.

    Args:
      clip: the source, one channel.
      noise: one channel, of which the first `n_noise` samples are noise; of a noise
        longer than the clip its first N samples are enough.
      n_noise: length of each noise in samples.
      rirs: impulse responses to each ear; the first belongs to the source. Positions
        that an item does not use are zeros.
      draws: SNR and noise offset of each item.
      sfreq: sampling rate of everything in Hz (32 kHz in the released recipe).
      n_clip: length of each clip, N where it is None. The scene is as long as its clip,
        and zeros follow it.
    """
    n = clip.shape[-1]
    if n_clip is None:
        n_clip = jnp.full(clip.shape[:1], n)
    placed = place_noise(noise, n_noise, draws.offset, n, sfreq, n_clip)
    inside = (jnp.arange(n) < n_clip[:, None])[:, None]  # [B, 1, N]
    source = jnp.where(inside, heard(clip, rirs[:, 0]), 0)
    unwanted = jnp.where(inside, heard_from_all(placed, rirs[:, 1:]), 0)
    return mix(source, unwanted, draws.snr_db[:, None])


def cut(
    x: Float[Array, "B E N"], start: Int[Array, " B"], n_samples: int
) -> Float[Array, "B E U"]:
    """`n_samples` of each clip from `start` on, at all ears; outside a clip: zeros."""
    at = start[:, None, None] + jnp.arange(n_samples)  # [B, 1, U]
    inside = (at >= 0) & (at < x.shape[-1])
    taken = jnp.take_along_axis(x, jnp.clip(at, 0, x.shape[-1] - 1), axis=-1)
    return jnp.where(inside, taken, 0)


def place_noise(
    noise: Float[Array, "B M"],
    n_noise: Int[Array, " B"],
    offset: Int[Array, " B"],
    n_samples: int,
    sfreq: float,
    n_clip: Int[Array, " B"] | int | None = None,
) -> Float[Array, "B N"]:
    """Lay noises into buffers of `n_samples`, with linear fades of 0.2 s.

    The gain of a fade is linspace(0, 1, n), both ends included. A noise no longer than
    the clip fades in and out; a longer one is cut to the clip and only fades out. A
    clip has `n_clip` samples, as many as the buffer where that is None.
    """
    n_fade = round(FADE_S * sfreq)
    n_clip = n_samples if n_clip is None else n_clip
    longer = n_noise > n_clip
    at = jnp.arange(n_samples) - offset[:, None]  # sample of the noise, [B, N]
    end = jnp.where(longer, n_clip - offset, n_noise)[:, None]
    slope = 1 / max(n_fade - 1, 1)
    fade_in = jnp.where(longer[:, None], 1, jnp.clip(at * slope, 0, 1))
    gain = fade_in * jnp.clip((end - 1 - at) * slope, 0, 1)
    inside = (at >= 0) & (at < end)
    taken = jnp.take_along_axis(noise, jnp.clip(at, 0, noise.shape[-1] - 1), axis=1)
    return jnp.where(inside, taken * gain, 0)


def heard(x: Float[Array, "B N"], rir: Float[Array, "B E R"]) -> Float[Array, "B E N"]:
    """Convolve a clip with the impulse response to each ear; keep the clip's length."""
    n = x.shape[-1]
    size = scipy.fft.next_fast_len(n + rir.shape[-1] - 1, real=True)
    spectrum = jnp.fft.rfft(x, size)[:, None] * jnp.fft.rfft(rir, size)
    return jnp.fft.irfft(spectrum, size)[..., :n]


def heard_from_all(
    x: Float[Array, "B N"], rirs: Float[Array, "B K E R"]
) -> Float[Array, "B E N"]:
    """The same sound from K places at once: one convolution, as it is linear."""
    return heard(x, rirs.sum(axis=1))


def mix(
    source: Float[Array, "B E N"],
    noise: Float[Array, "B E N"],
    snr_db: Float[Array, "B #E"],
) -> Float[Array, "B E N"]:
    """Add the noise to the source at `snr_db`, scaled at each ear by its own energies.

    Both ears thus have the same SNR, which changes the noise's own level difference
    between them, as released. Where the noise is silent at an ear, nothing is added.
    """
    wanted, unwanted = (jnp.square(x).sum(axis=-1) for x in (source, noise))  # [B, E]
    ratio = jnp.where(unwanted > 0, wanted / jnp.where(unwanted > 0, unwanted, 1), 0)
    return source + noise * (jnp.sqrt(ratio) * 10 ** (-snr_db / 20))[..., None]
