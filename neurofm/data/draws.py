"""Random numbers that any row of any run can find at once.

They are the raw output of Philox, a counter-based generator whose stream numpy keeps
fixed, while its `integers` and `permutation` may change between versions.
"""

import functools
import hashlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt64


def stream_key(*parts: object) -> UInt64[np.ndarray, " two"]:
    """A generator's key from what the numbers may depend on, e.g. (hash, seed, use)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.frombuffer(digest[:16], "<u8")


def draws(
    key: UInt64[np.ndarray, " two"], stream: int, n: int
) -> UInt64[np.ndarray, " n"]:
    """The first `n` words of stream number `stream`; streams do not overlap."""
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n)


def draws_of_rows(
    key: UInt64[np.ndarray, " two"], n: int
) -> Callable[[int], UInt64[np.ndarray, " n"]]:
    """Row number -> its own `n` words, made and kept for 256 rows at a time."""

    @functools.lru_cache(maxsize=64)
    def block(number: int) -> UInt64[np.ndarray, "rows n"]:
        return draws(key, number, 256 * n).reshape(256, n)

    return lambda row: block(row // 256)[row % 256]


def below(draw: np.uint64, n: int) -> int:
    """A uniform integer in [0, n) from 64 random bits."""
    return int(draw) * n >> 64


def permutation(
    key: UInt64[np.ndarray, " two"], stream: int, n: int
) -> Int[np.ndarray, " n"]:
    """0 to n-1 in random order."""
    return np.argsort(draws(key, stream, n), kind="stable")
