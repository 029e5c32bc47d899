"""The text of a compiled program as tables: instructions, shapes, groups of devices.

XLA prints a program as computations, each a list of instructions

    %all-gather.7 = bf16[256,256]{1,0} all-gather(%p.1), replica_groups=[4,2]<=[8], ...

of which one computation is the ENTRY. Nothing here knows what an instruction means.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Shape = tuple[str, tuple[int, ...]]  # dtype, dimensions

_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_PARENTHESIS = re.compile(r"[()]")
_IOTA = r"\[[\d,]+\](?:<=\[[\d,]+\])?(?:T\([\d,]+\))?"


@dataclass(frozen=True)
class Instruction:
    """One line: `shapes` of its result, flat, and what stands in the parentheses."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    inside: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the instructions it takes."""
        return re.findall(r"%([\w.-]+)", self.inside)

    def called(self, attribute: str) -> list[str]:
        """Names of the computations that an attribute (a regex) gives."""
        given = rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.-]+)"
        names = " ".join(re.findall(given, self.attributes))
        return re.findall(r"[\w.-]+", names)

    @cached_property
    def n_bytes(self) -> int:
        """Size of the result."""
        return sum(map(n_bytes, self.shapes))


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in their order, and the one whose result it returns."""

    table: dict[str, Instruction]
    root: Instruction


def read(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program by name, and the name of the entry.

    Raises:
      ValueError: text without an entry, or in a form that this reader does not know.
    """
    computations: dict[str, Computation] = {}
    entry = name = ""
    table: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, table = header[2], {}
            entry = name if header[1] else entry
        elif name and (started := _START.match(line)):
            rest = _COMMENT.sub("", line[started.end() :])
            instruction = table[started[2]] = _instruction(started[2], rest)
            if started[1]:
                computations[name] = Computation(table, instruction)
    if not entry:
        raise ValueError("the text has no ENTRY: give that of compiled.as_text()")
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    typed = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opens = rest.index("(", typed)
    closes = _closing(rest, opens)
    shapes = tuple(
        (dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d))
        for dtype, dims in _SHAPE.findall(rest[:typed])
    )
    opcode, inside = rest[typed:opens].strip(), rest[opens + 1 : closes - 1]
    return Instruction(name, opcode, shapes, inside, rest[closes:])


def _closing(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for found in _PARENTHESIS.finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    raise ValueError(f"a parenthesis of {text[:80]!r} does not close")


def n_bytes(shape: Shape) -> int:
    """Size of an array; tokens have none."""
    dtype, dims = shape
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8 * (dtype == "pred")
    return math.ceil(math.prod(dims) * bits / 8)


# ---- who takes part ------------------------------------------------------------------


def groups(instruction: Instruction, n_devices: int) -> list[list[int]]:
    """Devices by group; of a permutation, the pairs of sender and receiver.

    Raises:
      ValueError: groups in a form that this reader does not know.
    """
    text = instruction.attributes
    if found := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        return _lists(found[1]) or [[0]]
    if found := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text):
        return _lists(found[1]) or [list(range(n_devices))]
    if found := re.search(rf"replica_groups=({_IOTA})", text):
        return _iota(found[1]).tolist()
    mesh = (
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(({_IOTA})\))? \{{(.*?)\}}"
    )
    if found := re.search(mesh, text):
        return _mesh_groups(*found.groups())
    raise ValueError(
        f"the groups of {instruction.name} are in an unknown form: {text[:200]}"
    )


def _lists(text: str) -> list[list[int]]:
    listed = re.findall(r"\{([\d,]+)\}", text)
    return [list(dict.fromkeys(map(int, group.split(",")))) for group in listed]


def _iota(text: str) -> np.ndarray:
    """`[4,2]<=[2,4]T(1,0)`: count up in `[2,4]`, transpose, lay out as `[4,2]`."""
    last, first, order = (
        [int(i) for i in part.split(",")] if part else []
        for part in re.findall(
            r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", text
        )[0]
    )
    counted = np.arange(math.prod(last)).reshape(first or last)
    turned = counted.transpose(order) if order else counted
    return turned.reshape(last) if first else turned


def _mesh_groups(mesh: str, ids: str | None, grouped: str) -> list[list[int]]:
    """`mesh['a'=2,'b'=4] {'b'}`: groups along b; `'b':(2)2` is the inner half of b."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped):
        parts.setdefault(name, []).append((int(before or 1), int(size or 0)))
    shape: list[int] = []
    along: list[int] = []  # places of the grouped axes in `shape`
    for name, size in re.findall(r"'([^']+)'=(\d+)", mesh):
        left, past = int(size), 1
        for before, part in sorted(parts.get(name, [])):
            part = part or left
            along.append(len(shape) + 1)
            shape += [before // past, part]
            past = before * part
            left = int(size) // past
        shape.append(left)
    devices = np.arange(math.prod(shape)) if ids is None else _iota(ids)
    across = [i for i in range(len(shape)) if i not in along]
    turned = devices.reshape(shape).transpose([*across, *along])
    return turned.reshape(-1, math.prod(shape[i] for i in along)).tolist()
