"""A training step compiled for TPUs that are not there, and what their compiler says.

`compile_step` runs in a process of its own (`python -m neurofm.planning.aot`), as
libtpu writes to the terminal, holds a lock and ends the process on some mistakes.
"""

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from neurofm.config import Experiment, from_json, to_json
from neurofm.errors import NeuroFMError
from neurofm.parallel.accelerators import Accelerator
from neurofm.parallel.collectives import Collective

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The verdict of the compiler on one chip's program.

    Attributes:
      fits: the program was compiled; otherwise only `needs`, `limit` and `largest` say
        something.
      needs: bytes of memory one chip needs at its peak.
      limit: bytes one chip has for programs, where the compiler names it.
      held: bytes of the state and the batch, which stay between steps.
      temporaries: bytes used within a step.
      largest: what the compiler lists as the largest arrays, a line each.
      collectives: what the chips send each other in one step.
      compile_s: seconds it took on the machine that compiled.
    """

    fits: bool
    needs: int
    limit: int | None = None
    held: int = 0
    temporaries: int = 0
    largest: tuple[str, ...] = ()
    collectives: tuple[Collective, ...] = ()
    compile_s: float = 0.0

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "Compiled":
        """Read back what `dataclasses.asdict` and JSON made."""
        listed = pydantic.TypeAdapter(tuple[Collective, ...])
        told = listed.validate_python(obj["collectives"])
        return cls(**{**obj, "largest": tuple(obj["largest"]), "collectives": told})


def compile_step(exp: Experiment, chips: Accelerator, slices: int = 1) -> Compiled:
    """Compile the training step of `exp` for `slices` slices of `chips`.

    Raises:
      NeuroFMError: libtpu is not installed, or the step cannot be compiled for another
        reason than memory.
    """
    request = {
        "experiment": to_json(exp),
        "topology": chips.topology_name,
        "options": chips.topology_options,
        "slices": slices,
    }
    # ALLOW_MULTIPLE_LIBTPU_LOAD: another process may be compiling, or use the TPU.
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            [sys.executable, "-m", "neurofm.planning.aot", answer],
            input=json.dumps(request),
            env={**environment, "XLA_FLAGS": " ".join(_dump(Path(folder)))},
            capture_output=True,
            text=True,
        )
        if not answer.exists():
            log.debug(done.stderr)
            said = re.findall(r"^\S*(?:Error|Exception): .*", done.stderr, re.MULTILINE)
            why = said[-1][:300] if said else f"exit {done.returncode}"
            raise NeuroFMError(
                f"the step could not be compiled for {chips} ({why}): run again with "
                "--debug for all that the compiler said"
            )
        found = json.loads(answer.read_text())
    if "error" in found:
        raise NeuroFMError(found["error"])
    return Compiled.from_json(found)


def _dump(folder: Path) -> list[str]:
    """Flags with which the compiler writes the program it made: `_text` reads it.

    `compiled.as_text()` goes through jaxlib, which cannot read every program of libtpu:
    not those of v6e that hand gathers to the sparse cores.
    """
    own = [f"--xla_dump_to={folder}", "--xla_dump_hlo_as_text"]
    return [*os.environ.get("XLA_FLAGS", "").split(), *own]


def _text(folder: Path) -> str:
    (text,) = folder.glob("*.jit_step.*.after_optimizations.txt")
    return text.read_text()


_SIZE = r"([\d.]+[KMGT]?)"
_USED = re.compile(rf"Used {_SIZE} of {_SIZE} hbm")
_TEMPORARIES = re.compile(
    rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"
)
_ENTRY = re.compile(rf"Size: {_SIZE}\s.*?Shape: (\S+)", re.DOTALL)


def verdict(message: str) -> Compiled | None:
    """The compiler's own out-of-memory message as numbers; None if it is no such one.

    It says `Used 31.2G of 15.75G hbm` and lists the largest arrays, or, where no
    arrangement could help, that `HLO temporaries (253.72G) exceeds available HBM`.
    """
    if found := _USED.search(message):
        largest = [f"{n} {s.split('{')[0]}" for n, s in _ENTRY.findall(message)[:5]]
        needs, limit = map(_bytes, found.groups())
        return Compiled(fits=False, needs=needs, limit=limit, largest=tuple(largest))
    if found := _TEMPORARIES.search(message):
        needs, limit = map(_bytes, found.groups())
        return Compiled(fits=False, needs=needs, limit=limit, temporaries=needs)
    return None


def _bytes(size: str) -> int:
    number, unit = (size[:-1], size[-1]) if size[-1] in "KMGT" else (size, " ")
    return round(float(number) * 1024 ** " KMGT".index(unit))


# ---- in the process of its own -------------------------------------------------------


def main(answer: Path) -> None:
    """Read a request from stdin, write the answer to a file."""
    request = json.load(sys.stdin)
    try:
        exp = from_json(request["experiment"]).resolved()
        found = dataclasses.asdict(
            _compile(
                exp,
                request["topology"],
                request["options"],
                request["slices"],
                answer.parent,
            )
        )
    except NeuroFMError as error:
        found = {"error": str(error)}
    answer.write_text(json.dumps(found))


def _compile(
    exp: Experiment,
    topology: str,
    options: dict[str, Any],
    slices: int,
    dumped: Path,
) -> Compiled:
    import jax
    from jax.experimental import topologies

    from neurofm.model import abstract_batch, abstract_frozen
    from neurofm.parallel import mesh, sharding
    from neurofm.parallel.collectives import collectives
    from neurofm.step import abstract_state, compiled_step

    if slices > 1:
        options = {**options, "num_slices": slices}
    try:
        there = topologies.get_topology_desc(topology, platform="tpu", **options)
    except ModuleNotFoundError as error:
        raise NeuroFMError(
            "libtpu is not installed, which compiles for TPUs: pip install "
            "'neurofm[tpu]' (Linux x86-64 only)"
        ) from error
    task, train = exp.task, exp.train
    devices = mesh.make(exp.mesh, there.devices)
    mesh.check_batch(devices, train.batch_size, train.accumulate)
    rows = sharding.batch_sharding(devices)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
        for name, x in abstract_batch(task, train.batch_size, "train").items()
    }
    frozen = {}
    for name, shapes in abstract_frozen(task).items():
        placed, _ = sharding.state_shardings(
            shapes, shapes["params"], devices, getattr(task, name).rules()
        )
        frozen[name] = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            shapes,
            placed,
        )
    with jax.set_mesh(devices):
        state, _ = abstract_state(task, exp.optim, train.steps, batch, devices, frozen)
        step = compiled_step(
            task, exp.optim, train.steps, train.accumulate, exp.seed, state
        )
        lowered = step.lower(state, frozen, batch)
        began = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if found := verdict(str(error)):
                return dataclasses.replace(found, compile_s=time.monotonic() - began)
            raise
    took = time.monotonic() - began
    memory = compiled.memory_analysis()
    assert memory is not None
    held = memory.argument_size_in_bytes
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        fits=True,
        needs=held
        + new
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        held=held,
        temporaries=memory.temp_size_in_bytes,
        collectives=tuple(collectives(_text(dumped), dict(devices.shape))),
        compile_s=took,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
