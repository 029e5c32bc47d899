"""Record shards in a store, read as byte ranges.

The library's reader wants files. A shard of ours (one record a chunk, uncompressed) is
easily read without it: chunks of Riegeli/records, with the offset of each in a footer.

    block    64 KiB of the file, begun by a 24-byte header that interrupts any chunk
    chunk    40-byte header (hash, data size, hash, type, records, decoded size), data
    data     compression (0 = none), varint size of the sizes, varint sizes, records
    footer   a chunk of messages, each with a chunk's offset as field 1; before them one
             that describes the file
    the end  a block whose first chunk holds a message: the offset of the footer

Sources: github.com/google/riegeli, doc/riegeli_records_file_format.md;
github.com/google/array_record, cpp/layout.proto. The format's hashes (HighwayHash) are
not verified here: stores and TLS check what they carry.
"""

import struct
import threading

import numpy as np
from jaxtyping import Int

from neurofm import stores

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40


class RemoteShard:
    """The records of one shard; nothing is read before the first is asked for."""

    def __init__(self, path: str, size: int):
        self._path, self._size = path, size
        self._bounds: Int[np.ndarray, " edges"] | None = None
        self._lock = threading.Lock()

    def read(self, records: list[int]) -> list[bytes]:
        """Records by number, as the library's reader gives them.

        Raises:
          RuntimeError: the bytes are no such shard.
          IndexError: there is no such record.
        """
        with self._lock:
            if self._bounds is None:
                self._bounds = self._index()
        return [self._record(self._bounds, number) for number in records]

    def _record(self, bounds: Int[np.ndarray, " edges"], number: int) -> bytes:
        if not 0 <= number < len(bounds) - 1:
            raise IndexError(f"it has {len(bounds) - 1} records")
        (record,) = self._chunk(int(bounds[number]), int(bounds[number + 1]))
        return record

    def _index(self) -> Int[np.ndarray, " edges"]:
        """Where each record's chunk begins, and where the last one ends."""
        end = self._size - _BLOCK
        postscript = self._chunk(end, self._size)[0]
        footer = _first_field(postscript)
        offsets = [_first_field(entry) for entry in self._chunk(footer, end)[1:]]
        return np.asarray([*offsets, footer])

    def _chunk(self, start: int, stop: int) -> list[bytes]:
        """The records of the chunk at `start`, which ends at `stop` or before."""
        if not 0 <= start < stop <= self._size:
            raise RuntimeError("its index is broken")
        raw = stores.read_bytes(self._path, start, stop)
        if len(raw) != stop - start:
            raise RuntimeError("it is cut")
        return unpack_chunk(raw, start)


def unpack_chunk(raw: bytes, start: int) -> list[bytes]:
    """The records of an uncompressed chunk that lies at `start` of its file.

    Raises:
      RuntimeError: it is no such chunk.
    """
    pieces, at = [], 0
    while at < len(raw):
        room = -(start + at) % _BLOCK
        if room == 0:  # a block begins here
            at, room = at + _BLOCK_HEADER, _BLOCK - _BLOCK_HEADER
        pieces.append(raw[at : at + room])
        at += room
    plain = b"".join(pieces)
    try:
        _, n_bytes, _, kind, _ = struct.unpack_from("<5Q", plain)
        data = plain[_CHUNK_HEADER : _CHUNK_HEADER + n_bytes]
        if kind & 0xFF != ord("r") or len(data) != n_bytes or data[0] != 0:
            raise RuntimeError("a chunk is not of plain records, or damaged")
        at = _varint(data, 1)[1]
        lengths = []
        for _ in range(kind >> 8):
            length, at = _varint(data, at)
            lengths.append(length)
    except (struct.error, IndexError) as error:
        raise RuntimeError("a chunk is damaged") from error
    ends = at + np.cumsum(lengths, dtype=int)
    if ends[-1] != n_bytes:
        raise RuntimeError("a chunk is damaged")
    return [data[e - n : e] for n, e in zip(lengths, ends, strict=True)]


def _first_field(message: bytes) -> int:
    """Field 1 of a protobuf message, a number; 0 where it is left out."""
    return _varint(message, 1)[0] if message[:1] == b"\x08" else 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
