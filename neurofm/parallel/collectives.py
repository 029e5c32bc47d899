"""What the devices of a compiled program say to each other, read from its text.

`cost_analysis()` knows nothing of collectives and counts the body of a loop once. Here
each collective is told with its size, the mesh axes it runs along and how often:

    collectives(compiled.as_text(), mesh.shape)

for the programs of CPU, GPU and TPU. TPU hides some collectives in fusions: a
reduce-scatter is a fusion of an all-reduce and a slice, and an asynchronous all-gather
stands in the fusion that begins it, in those that compute meanwhile and in the one that
ends it; each is counted once.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from neurofm.parallel import hlo
from neurofm.parallel.hlo import Computation, Instruction

Kind = Literal[
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Collective:
    """One collective of a compiled program.

    Attributes:
      kind: what it does.
      bytes: its whole buffer on one device: what an all-gather makes, what a
        reduce-scatter takes, what the others take and make.
      axes: mesh axes along which its devices differ, in the order of the mesh.
      trips: how often a run of the program does it; None where the number of rounds of
        a loop around it cannot be read.
      shapes: of its arrays, as they come out of it.
      group: how many devices take part together; 2 in a permutation.
    """

    kind: Kind
    bytes: int
    axes: tuple[str, ...]
    trips: int | None
    shapes: tuple[tuple[int, ...], ...]
    group: int

    @property
    def sent(self) -> float:
        """Bytes one device sends each time, round a ring: the least there can be."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        times = 2 if self.kind == "all-reduce" else 1
        return times * self.bytes * (self.group - 1) / self.group


def collectives(hlo_text: str, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """All collectives between devices that a run of the program reaches.

    Of the branches of a conditional the one that moves most is counted.

    Args:
      hlo_text: `compiled.as_text()`.
      mesh_shape: axis -> size in the order of the mesh, as `mesh.shape` has it; the
        program numbers its devices in that order.

    Raises:
      ValueError: text in a form that this reader does not know.
    """
    program = _Program(hlo_text, math.prod(mesh_shape.values()))
    told = []
    for kind, instruction, results, trips in program.found(program.entry):
        groups = hlo.groups(instruction, program.n_devices)
        group = max(map(len, groups))
        if group == 1:
            continue
        size = sum(map(hlo.n_bytes, results))
        told.append(
            Collective(
                kind=kind,
                bytes=size * group if kind == "reduce-scatter" else size,
                axes=_axes(groups, mesh_shape),
                trips=trips,
                shapes=tuple(dims for _, dims in results),
                group=group,
            )
        )
    return told


def _axes(groups: list[list[int]], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    sizes = tuple(mesh_shape.values())
    differs = np.zeros(len(sizes), bool)
    for group in groups:
        places = np.stack(np.unravel_index(group, sizes))
        differs |= (places != places[:, :1]).any(1)
    return tuple(n for n, d in zip(mesh_shape, differs, strict=True) if d)


Found = tuple[Kind, Instruction, tuple[hlo.Shape, ...], int | None]  # results, trips


class _Program:
    def __init__(self, text: str, n_devices: int):
        self.computations, self.entry = hlo.read(text)
        self.n_devices = n_devices
        self._seen: dict[str, list[Found]] = {}
        # What a fusion has begun is not counted again in those that go on with it.
        self._begun = {
            _identity(instruction)
            for computation in self.computations.values()
            if _begins(computation)
            for instruction in computation.table.values()
            if _kind(instruction)
        }

    def found(self, name: str) -> list[Found]:
        """Collectives of one run of a computation and of all it calls."""
        if name not in self._seen:
            self._seen[name] = [
                found
                for instruction in self.computations[name].table.values()
                for found in self._of(instruction, name)
            ]
        return self._seen[name]

    def _of(self, instruction: Instruction, inside: str) -> Iterator[Found]:
        opcode, called = instruction.opcode, instruction.called
        if kind := _kind(instruction):
            yield kind, instruction, _results(instruction), 1
        elif opcode == "while":
            (body,), (condition,) = called("body"), called("condition")
            rounds = self._rounds(instruction, inside, condition, body)
            for inner, by, results, n in self.found(body):
                trips = None if rounds is None or n is None else rounds * n
                yield inner, by, results, trips
        elif opcode == "conditional":
            branches = called("(?:branch|true|false)_computations?")
            yield from max(map(self.found, branches), key=_moved)
        elif opcode == "fusion":
            for name in called("calls"):
                yield from self._of_fusion(instruction, self.computations[name])
        elif not opcode.endswith(("-done", "-update")):
            for name in called("(?:calls|to_apply|called_computations)"):
                yield from self.found(name)

    def _of_fusion(self, fusion: Instruction, inner: Computation) -> Iterator[Found]:
        begins = _begins(inner)
        for instruction in inner.table.values():
            kind = _kind(instruction)
            if not kind or (not begins and _identity(instruction) in self._begun):
                continue
            results = instruction.shapes
            if kind == "all-reduce":
                group = max(map(len, hlo.groups(instruction, self.n_devices)))
                if instruction.n_bytes == fusion.n_bytes * group:
                    kind, results = "reduce-scatter", fusion.shapes
            yield kind, instruction, results, 1

    def _rounds(
        self, loop: Instruction, inside: str, condition: str, body: str
    ) -> int | None:
        """How often a loop goes round that counts up from and to a constant."""
        told = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if told:
            return int(told[1])
        outer, test, inner = (self.computations[n] for n in (inside, condition, body))
        carried, kept = outer.table[loop.operands[0]], inner.root
        if test.root.opcode != "compare" or "direction=LT" not in test.root.attributes:
            return None
        counter, limit = test.root.operands
        index = re.search(r"\bindex=(\d+)", test.table[counter].attributes)
        if not index or {carried.opcode, kept.opcode} != {"tuple"}:
            return None
        at = int(index[1])
        added = inner.table[kept.operands[at]]
        if added.opcode != "add":
            return None
        start = _constant(outer, carried.operands[at])
        stop, step = _constant(test, limit), _constant(inner, added.operands[1])
        if start is None or stop is None or not step:
            return None
        return max(0, -(-(stop - start) // step))


def _constant(computation: Computation, name: str) -> int | None:
    """The whole number that an instruction holds, seen through copies."""
    instruction = computation.table[name]
    while instruction.opcode in ("copy", "bitcast"):
        instruction = computation.table[instruction.operands[0]]
    whole = re.fullmatch(r"-?\d+", instruction.inside)
    return int(whole[0]) if whole and instruction.opcode == "constant" else None


def _kind(instruction: Instruction) -> Kind | None:
    name = instruction.opcode.removesuffix("-start").removeprefix("ragged-")
    return next((kind for kind in KINDS if kind == name), None)


def _begins(computation: Computation) -> bool:
    table = computation.table.values()
    return any('"AsyncCollectiveStart"' in i.attributes for i in table)


def _identity(instruction: Instruction) -> tuple:
    channel = re.search(r"channel_id=\d+", instruction.attributes)
    return instruction.opcode, channel and channel[0], instruction.shapes


def _results(instruction: Instruction) -> tuple[hlo.Shape, ...]:
    """Shapes of the result, without what an asynchronous start carries besides."""
    shapes = instruction.shapes
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        shapes = tuple(s for s in shapes if s != ("u32", ()))  # context words
        shapes = shapes[len(shapes) // 2 :]  # (operands, results)
    return shapes


def _moved(found: list[Found]) -> int:
    return sum(
        (trips or 1) * sum(map(hlo.n_bytes, shapes)) for _, _, shapes, trips in found
    )
