"""Size of a run's state, and how long saving and restoring it takes.

    python benchmarks/checkpoints.py --out FOLDER [--config wavjepa/base] [--rounds 3] \
        [--devices N] [--set a.b=c ...]

FOLDER is where runs would lie, on a disk or in a store; what is written there is
removed again. The state has the shapes and places of a run's and random values
(checkpoints are not compressed). One line of JSON with the medians of the rounds: how
long the loop is held by a save, until it is committed, and a restore with its
checksums; on a disk beside writing the same bytes to one file with fsync and reading
that file.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--config", default="wavjepa/base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, help="simulated, on the CPU")
    parser.add_argument("--set", nargs="*", default=[], help="overrides, a.b=c")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    found = measure(given.config, given.set, given.out, given.rounds, given.devices)
    print(json.dumps(found), flush=True)


def measure(
    name: str, settings: list[str], out: str, rounds: int, devices: int | None = None
) -> dict[str, Any]:
    """The row of one config."""
    import jax
    from etils import epath

    from neurofm import config, stores
    from neurofm.checkpoint import Checkpoints
    from neurofm.model import abstract_batch
    from neurofm.parallel import distributed, mesh
    from neurofm.step import abstract_state

    distributed.initialise(num_processes=1, devices=devices)
    exp = config.load(name, tuple(settings))
    there = mesh.make(exp.mesh)
    batch = abstract_batch(exp.task, exp.train.batch_size, "train")
    wanted, _ = abstract_state(exp.task, exp.optim, exp.train.steps, batch, there, {})
    state = jax.tree.map(filled, wanted)
    leaves = jax.tree.leaves(state)
    folder = stores.place(out) / "neurofm-benchmark-checkpoints"
    checkpoints = Checkpoints(folder, keep=1)
    taken: dict[str, list[float]] = {}

    def timed(what: str, call: Callable[[], Any], since: float | None = None) -> None:
        began = time.monotonic() if since is None else since
        call()
        taken.setdefault(what, []).append(time.monotonic() - began)

    try:
        for step in range(rounds + 1):
            began = time.monotonic()
            timed("held_s", lambda step=step: checkpoints.save(step, state, {}))
            timed("committed_s", checkpoints.wait, began)
            timed(
                "restore_s", lambda: jax.block_until_ready(checkpoints.restore(wanted))
            )
            if isinstance(folder, Path):
                file = folder.with_name("neurofm-benchmark-bytes")
                timed("plain_write_s", lambda file=file: write_plainly(file, leaves))
                timed("plain_read_s", lambda file=file: read_plainly(file))
                file.unlink()
            stored = stored_bytes(folder)
            if step == 0:
                taken.clear()  # the first one imports and compiles
    finally:
        epath.Path(folder).rmtree(missing_ok=True)
    return {
        "config": name,
        "settings": settings,
        "platform": jax.devices()[0].platform,
        "mesh": dict(there.shape),
        "arrays": len(leaves),
        "bytes": sum(leaf.nbytes for leaf in leaves),
        "stored_bytes": stored,
        "rounds": rounds,
        **{what: round(statistics.median(x), 3) for what, x in taken.items()},
    }


def stored_bytes(folder: Any) -> int:
    """What all files below a folder hold, or all objects below an address."""
    from neurofm import stores

    if stores.is_remote(folder):
        return sum(size for size, _ in stores.tree(os.fspath(folder)).values())
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def filled(leaf: Any) -> Any:
    """An array of a leaf's shape, dtype and place."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)

    def part(index: tuple[slice, ...]) -> Any:
        shape = np.broadcast_to(np.int8(0), leaf.shape)[index].shape
        return rng.random(shape, np.float32).astype(leaf.dtype)

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)


def write_plainly(path: Path, leaves: list[Any]) -> None:
    """The bytes of this process, one after another, on the disk when it returns."""
    import numpy as np

    with path.open("wb") as file:
        for leaf in leaves:
            file.write(np.ascontiguousarray(leaf).data)
        file.flush()
        os.fsync(file.fileno())


def read_plainly(path: Path) -> None:
    """Read a file in pieces of 16 MiB."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


if __name__ == "__main__":
    main()
