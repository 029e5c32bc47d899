"""Checkpoints: exact, asynchronous, and never silently wrong."""

import logging
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.checkpoint import Checkpoints, latest, read_meta, restore_params
from neurofm.errors import NeuroFMError
from neurofm.run.integrity import checksums

REPO = Path(__file__).parents[1]


def make_state(step: int) -> dict:
    """A small state with every kind of leaf and node a run may hold."""
    key = jax.random.key(step)
    params = {
        "encoder": {
            "kernel": jax.random.normal(key, (7, 5)),
            "bias": jnp.zeros((5,)),
        },
        "gain": jnp.full((3,), 1.5, jnp.bfloat16),
    }
    opt = optax.masked(
        optax.adamw(optax.constant_schedule(1e-3)),
        {"encoder": True, "gain": False},
    )
    return {
        "params": params,
        "slow": {"teacher": jax.tree.map(lambda x: 2 * x, params)},
        "buffers": {},
        "opt": (opt.init(params), None, {"bytes": jnp.arange(11, dtype=jnp.uint8)}),
        "flags": [jnp.array([True, False, True]), jnp.int8(-3)],
        "key": jax.random.split(key, 3),
        "step": jnp.int32(step),
    }


def abstract(state: dict) -> dict:
    return jax.eval_shape(lambda: state)


def assert_same(a: dict, b: dict) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def run(tmp_path: Path) -> Checkpoints:
    """A run with good checkpoints at steps 3 and 6."""
    run = Checkpoints(tmp_path / "checkpoints")
    for step in (3, 6):
        run.save(step, make_state(step), {"of": step, "note": "a µ and a 'quote'"})
    run.wait()
    return run


def reopened(run: Checkpoints) -> Checkpoints:
    return Checkpoints(run.directory)


def biggest_file(folder: Path) -> Path:
    return max(Path(folder).rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_state_comes_back_bit_for_bit_with_its_meta(run):
    step, state, meta = reopened(run).restore(abstract(make_state(6)))

    assert step == 6
    assert meta == {"of": 6, "note": "a µ and a 'quote'"}
    assert_same(state, make_state(6))


def test_a_relative_folder_is_saved_to_and_read_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Checkpoints("run/checkpoints")
    run.save(3, make_state(3), {})
    run.wait()

    _, state, _ = Checkpoints("run/checkpoints").restore(abstract(make_state(3)))

    assert_same(state, make_state(3))
    for path in ("run/checkpoints", "run/checkpoints/3"):
        variables, meta = restore_params(path)
        assert meta["step"] == 3
        assert_same(variables["slow"], make_state(3)["slow"])


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    x = jnp.arange(5_000_003, dtype=jnp.float32)
    run = Checkpoints(tmp_path)

    run.save(1, {"params": {"x": x}}, {})
    jax.block_until_ready(overwrite(overwrite(x)))
    run.wait()

    (variables, _) = restore_params(tmp_path)
    assert (variables["params"]["x"] == np.arange(5_000_003, dtype=np.float32)).all()


def test_a_run_without_checkpoints_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(abstract(make_state(1))) is None
    assert latest(tmp_path / "none") is None


def test_the_same_step_is_not_written_twice(run):
    written = (Path(run.directory) / "6" / "meta.json").stat().st_mtime_ns
    run.save(6, make_state(6), {})
    run.wait()
    assert (Path(run.directory) / "6" / "meta.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda f: flip(biggest_file(f)), "has changed"),
        (lambda f: cut(biggest_file(f)), "bytes instead of"),
        (lambda f: biggest_file(f).unlink(), "is missing"),
        (lambda f: (f / "meta.json").unlink(), "never finished"),
        (lambda f: flip(f / "meta.json"), "meta.json"),
        (lambda f: cut(f / "meta.json"), "meta.json cannot be read"),
        (lambda f: (f / "meta.json").write_text("[1]"), "meta.json cannot be read"),
        (lambda f: (shutil.rmtree(f), f.mkdir()), "it is empty"),
        (lambda f: shutil.rmtree(f / "opt"), "is missing"),
    ],
)
def test_a_damaged_step_falls_back_with_one_sentence(run, caplog, break_it, reason):
    break_it(Path(run.directory) / "6")

    with caplog.at_level(logging.DEBUG, logger="neurofm"):
        step, state, meta = reopened(run).restore(abstract(make_state(6)))

    assert (step, meta["of"]) == (3, 3)
    assert_same(state, make_state(3))
    (sentence,) = [r.getMessage() for r in caplog.records if "neurofm" in r.name]
    assert "checkpoint 3" in sentence
    assert "step 6" in sentence
    assert reason in sentence


def test_a_byte_changed_in_a_large_array_is_found_by_its_checksum(tmp_path, caplog):
    run = Checkpoints(tmp_path)
    for step in (1, 2):
        run.save(step, {"params": {"x": jnp.arange(700_001) + step}}, {})
    run.wait()
    flip(biggest_file(tmp_path / "2"))

    (variables, _) = restore_params(tmp_path)

    assert variables["params"]["x"][0] == 1
    assert "the array params/x is not what was saved" in caplog.text


def test_whatever_happens_to_one_file_the_numbers_are_never_wrong(tmp_path):
    """Each file of a step is changed, cut and deleted; an older step is as good."""
    run, folder, good = (
        Checkpoints(tmp_path / "run"),
        tmp_path / "run/2",
        tmp_path / "2",
    )
    states = [
        {"params": {"x": jnp.arange(999.0) + i, "y": jnp.int8(i)}} for i in (1, 2)
    ]
    for step, state in enumerate(states, start=1):
        run.save(step, state, {})
    run.wait()
    shutil.copytree(folder, good)
    files = [p.relative_to(good) for p in good.rglob("*") if p.is_file()]
    assert len(files) >= 10
    for name in files:
        for break_it in (flip, cut, Path.unlink):
            if break_it is Path.unlink or (good / name).stat().st_size > 1:
                break_it(folder / name)
            step, state, _ = reopened(run).restore(abstract(states[1]))
            assert_same(state, states[step - 1])
            shutil.copy(good / name, folder / name)


def test_an_empty_numeric_folder_is_passed_over(run, caplog):
    (run.directory / "9").mkdir()
    assert reopened(run).restore(abstract(make_state(6)))[0] == 6
    assert "passing over step 9 (it is empty)" in caplog.text
    assert run.steps() == [3, 6]
    assert latest(run.directory) == 6


def test_a_run_whose_checkpoints_are_all_damaged_stops(run):
    flip(biggest_file(Path(run.directory) / "6"))
    (run.directory / "3" / "meta.json").unlink()
    for read in (
        lambda: reopened(run).restore(abstract(make_state(6))),
        lambda: restore_params(run.directory),
    ):
        with pytest.raises(NeuroFMError, match=r"step 6 \(.*changed\), step 3 \(.*fin"):
            read()


def test_a_run_killed_in_its_first_save_begins_again(run, caplog):
    for step in ("3", "6"):
        (run.directory / step / "meta.json").unlink()
    assert reopened(run).restore(abstract(make_state(6))) is None
    assert "step 6 (it was never finished" in caplog.text
    with pytest.raises(NeuroFMError, match="is not a checkpoint that can be used"):
        restore_params(run.directory)


def test_another_config_is_refused_naming_what_differs(run):
    other = make_state(6)
    other["params"]["encoder"]["kernel"] = jnp.zeros((7, 4))
    other["params"]["head"] = jnp.zeros((2,))
    del other["slow"]["teacher"]["gain"]

    with pytest.raises(NeuroFMError) as error:
        reopened(run).restore(abstract(other))

    assert (
        "params/encoder/kernel is ['float32', 7, 5] there, ['float32', 7, 4] here"
        in (str(error.value))
    )
    assert "params/head is absent there" in str(error.value)
    assert "slow/teacher/gain is ['bfloat16', 3] there, absent here" in str(error.value)


def test_the_last_few_and_every_nth_step_are_kept(tmp_path):
    run = Checkpoints(tmp_path, keep=2, keep_every=4)
    for step in range(1, 8):
        run.save(step, {"params": {"x": jnp.full((3,), step)}}, {})
    run.wait()
    assert run.steps() == [4, 6, 7]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "6", "7"]


def test_a_run_that_passed_over_a_damaged_step_writes_it_anew(run):
    flip(biggest_file(Path(run.directory) / "6"))
    (run.directory / "9").mkdir()
    (run.directory / "8.orbax-checkpoint-tmp").mkdir()
    again = reopened(run)
    assert again.restore(abstract(make_state(6)))[0] == 3

    again.save(6, make_state(6), {"second": True})
    again.wait()

    assert sorted(p.name for p in run.directory.iterdir()) == ["3", "6"]
    step, state, meta = reopened(run).restore(abstract(make_state(6)))
    assert (step, meta) == (6, {"second": True})
    assert_same(state, make_state(6))


def test_the_model_is_read_without_an_abstract_tree(run):
    for path in (run.directory, run.directory / "6"):
        variables, meta = restore_params(path)
        assert meta == read_meta(run.directory / "6")
        assert (meta["step"], meta["of"]) == (6, 6)
        assert_same(variables, {k: make_state(6)[k] for k in variables})
        assert list(variables) == ["params", "slow", "buffers"]
    assert isinstance(variables["params"]["gain"], np.ndarray)


def test_what_is_no_checkpoint_is_a_user_error(run, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    shutil.rmtree(run.directory / "6" / "params")
    for path, why in [
        (tmp_path / "note.txt", "no such folder"),
        (tmp_path / "nowhere", "no such folder"),
        (run.directory / "6", "is missing"),
    ]:
        with pytest.raises(NeuroFMError, match=why):
            read_meta(path)
        with pytest.raises(NeuroFMError, match=why):
            restore_params(path)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    run = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="size zero"):
        run.save(1, {"params": {"x": jnp.zeros((0, 3))}}, {})
    with pytest.raises(ValueError, match="JSON"):
        run.save(1, {"params": {"x": jnp.zeros(3)}}, {"loss": float("nan")})
    with pytest.raises(NeuroFMError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_is_raised_by_the_next_call(tmp_path, monkeypatch):
    def full(folder: epath.Path, record: dict) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neurofm.checkpoint.write_record", full)
    run = Checkpoints(tmp_path)
    run.save(1, {"params": {"x": jnp.zeros(3)}}, {})
    with pytest.raises(OSError, match="No space"):
        run.save(2, {"params": {"x": jnp.zeros(3)}}, {})
    assert run.steps() == []


def slow_checksum(x: np.ndarray) -> str:
    """The two sums in plain Python integers."""
    width = min(x.dtype.itemsize, 4)
    data = x.tobytes()
    plain = weighted = 0
    for i in range(len(data) // width):
        word = int.from_bytes(data[i * width : (i + 1) * width], "little")
        spread = i * 0x9E3779B1 % 2**32
        plain += word
        weighted += word * (spread ^ (spread >> 15) | 1)
    return f"{plain % 2**32:08x}{weighted % 2**32:08x}"


DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "bool")


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from([(), (1,), (7,), (2, 3, 5), (3, 1, 4)]),
    st.integers(0, 2**32 - 1),
)
def test_a_checksum_is_the_one_of_plain_integers(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    dtype = jnp.dtype(dtype)
    if dtype.name == "bool":
        x = rng.integers(0, 2, shape).astype(bool)
    else:
        n = int(np.prod(shape)) * dtype.itemsize
        x = np.frombuffer(rng.bytes(n), dtype).reshape(shape)
    assert checksums({"x": jnp.asarray(x)})["x"] == slow_checksum(x)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 4 * 15 - 1), st.integers(1, 255))
def test_any_changed_byte_changes_both_sums(position, change):
    x = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
    data = bytearray(x.tobytes())
    data[position] ^= change
    y = np.frombuffer(bytes(data), np.float32).reshape(3, 5)
    (a, b) = checksums({"x": x, "y": y}).values()
    assert a[:8] != b[:8]
    assert a[8:] != b[8:]


def test_exchanged_blocks_change_the_checksum():
    x = np.arange(2**12, dtype=np.float32).reshape(16, 256)
    swapped = x.copy()
    swapped[[0, 8]] = swapped[[8, 0]]
    (a, b) = checksums({"x": x, "y": swapped}).values()
    assert a[:8] == b[:8]
    assert a[8:] != b[8:]


def python(code: str, *args: str, devices: int = 1) -> subprocess.Popen:
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPO),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *args],
        env=env,
        cwd=REPO,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(*processes: subprocess.Popen) -> list[str]:
    out = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=100)
        assert process.returncode == 0, stderr
        out.append(stdout)
    return out


KILLED = """
import sys, time
import jax.numpy as jnp
import neurofm.checkpoint
from neurofm.checkpoint import Checkpoints

run = Checkpoints(sys.argv[1])
run.save(1, {"params": {"x": jnp.full((1000, 999), 1.0)}}, {"step": 1})
run.wait()
if sys.argv[2] == "before the record":
    def stuck(folder, record):
        print("now", flush=True)
        time.sleep(60)
    neurofm.checkpoint.write_record = stuck
run.save(2, {"params": {"x": jnp.full((1000, 999), 2.0)}}, {"step": 2})
if sys.argv[2] == "while writing":
    print("now", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("when", ["while writing", "before the record"])
def test_a_run_killed_in_the_middle_of_a_save_resumes(tmp_path, when):
    with python(KILLED, str(tmp_path), when) as child:
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)

    run = Checkpoints(tmp_path)
    want = {"params": {"x": jax.ShapeDtypeStruct((1000, 999), jnp.float32)}}
    step, state, meta = run.restore(want)
    assert meta == {"step": step}
    assert (np.asarray(state["params"]["x"]) == step).all()
    if when == "before the record":
        assert step == 1

    run.save(3, state, {})
    run.wait()
    left = {p.name for p in tmp_path.iterdir()}
    assert left in ({"1", "3"}, {"1", "2", "3"})


RESHARD = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from neurofm.checkpoint import Checkpoints, restore_params
from neurofm.run.integrity import checksums

def spread(a, b, *spec):
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((a, b), ("a", "b"), axis_types=auto)
    return NamedSharding(mesh, P(*spec))

x = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)
first, second, whole = spread(2, 4, "a", "b"), spread(8, 1, "b", "a"), spread(4, 2)
state = {
    "params": {"x": jax.device_put(x, first)},
    "step": jax.device_put(jnp.int32(4), whole),
}
run = Checkpoints(sys.argv[1])
run.save(4, state, {})
run.wait()
for sharding in (first, second, whole, None):
    want = {
        "params": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)},
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    }
    step, back, _ = Checkpoints(sys.argv[1]).restore(want)
    y = back["params"]["x"]
    assert (np.asarray(y) == x).all() and back["step"] == 4
    assert sharding is None or y.sharding == sharding
    assert checksums({"x": y}) == checksums({"x": x})
"""


def test_a_checkpoint_of_one_mesh_is_restored_onto_another(tmp_path):
    finished(python(RESHARD, str(tmp_path), devices=8))
    variables, _ = restore_params(tmp_path)
    x = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)
    assert (variables["params"]["x"] == x).all()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


TWO = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank = int(sys.argv[2])
jax.distributed.initialize(f"localhost:{sys.argv[3]}", 2, rank)
from jax.sharding import NamedSharding, PartitionSpec as P
import neurofm.checkpoint
from neurofm.checkpoint import Checkpoints

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))

def state(step):
    full = np.arange(12, dtype=np.float32) + step
    x = jax.make_array_from_callback((12,), sharding, lambda i: full[i])
    return {"params": {"x": x}}

run = Checkpoints(sys.argv[1])
for step in (1, 2):
    run.save(step, state(step), {"step": step})
run.wait()
want = {"params": {"x": jax.ShapeDtypeStruct((12,), jnp.float32, sharding=sharding)}}
step, back, meta = Checkpoints(sys.argv[1]).restore(want)
assert (step, meta) == (2, {"step": 2})
for shard in back["params"]["x"].addressable_shards:
    assert (np.asarray(shard.data) == (np.arange(12) + 2)[shard.index]).all()

load = neurofm.checkpoint._load
def fails_once(folder, wanted):
    if rank == 1 and folder.name == "2":
        raise neurofm.checkpoint.Damaged("only process 1 meets this")
    return load(folder, wanted)
neurofm.checkpoint._load = fails_once
assert Checkpoints(sys.argv[1]).restore(want)[0] == 1
"""


def test_two_processes_save_together_and_agree_on_what_is_damaged(tmp_path, free_port):
    both = [
        python(TWO, str(tmp_path), str(r), str(free_port), devices=2) for r in (0, 1)
    ]
    finished(*both)


# ---- how long it takes ---------------------------------------------------------------


def test_the_benchmark_counts_the_bytes_of_a_state_and_leaves_nothing_behind(tmp_path):
    benchmark = runpy.run_path(str(REPO / "benchmarks" / "checkpoints.py"))
    found = benchmark["measure"]("wavjepa/tiny", ["task.width=48"], str(tmp_path), 1)
    assert list(tmp_path.iterdir()) == []
    assert 1 < found["stored_bytes"] / found["bytes"] < 1.05 + 2**16 / found["bytes"]
    assert 0 < found["held_s"] <= found["committed_s"]
    assert found["restore_s"] > 0
