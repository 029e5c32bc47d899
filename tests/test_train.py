"""Runs that are killed, stopped, moved and led astray, against one left in peace."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import TRAINABLE as TASK

from neurofm import config
from neurofm.checkpoint import Checkpoints, latest, read_meta, restore_params
from neurofm.config import Data, Eval, Experiment, Train
from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.errors import NeuroFMError
from neurofm.optim import Optim
from neurofm.run.metrics import read_rows
from neurofm.run.workdir import Workdir
from neurofm.train import Outcome, pretrain, start_from

ROOT = Path(__file__).parents[1]
STEPS = 8
FAST_COMPILE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
SAVED, EVALUATED = [3, 6, 8], [0, 2, 4, 6, 8]

# The experiment of a run that sends itself a signal at a moment told by the
# environment: `row 4` when the row of step 4 is written, `record 6` when all of
# checkpoint 6 is but its record, `config 0` when the config is read.
CONFIG = """
import json, os, signal
from neurofm import checkpoint, config as configs
from neurofm.run import metrics

name, place, at = os.environ.get("STOP", "SIGKILL never 0").split()
print("a library that prints", flush=True)

def stop(here, step):
    if (here, step) == (place, int(at)):
        os.kill(os.getpid(), getattr(signal, name))

append, write_record = metrics.MetricsLog.append, checkpoint.write_record

def append_and_stop(self, row):
    append(self, row)
    if "train/loss" in row:
        stop("row", row["step"])

def stop_and_write(folder, record):
    stop("record", record["step"])
    write_record(folder, record)

metrics.MetricsLog.append = append_and_stop
checkpoint.write_record = stop_and_write

def config():
    stop("config", 0)
    return configs.from_json(json.loads(EXPERIMENT))
"""


@dataclass(frozen=True)
class Peaceful:
    """A run that was let alone."""

    exp: Experiment
    workdir: Path
    outcome: Outcome


def write_sound(path: Path, seed: int = 0) -> None:
    """Noise and tones, some shorter than a crop; every fourth is held out."""
    rng = np.random.default_rng(seed)
    recordings = []
    for i, n in enumerate(rng.integers(700, 3000, 12)):
        tone = np.sin(np.arange(n) * rng.uniform(0.1, 1.5))
        wave = 0.1 * rng.normal(size=n) + 0.1 * i * tone
        meta = {"sha256": f"{i:064x}", "split": "valid" if i % 4 == 3 else "train"}
        samples = wave[None].astype(np.float32)
        recordings.append(Recording(item=f"item{i}", samples=samples, meta=meta))
    info = DatasetInfo(
        kind="audio",
        sfreq=TASK.sfreq,
        unit="full_scale",
        ch_names=("mono",),
        payload="float32",
    )
    write_dataset(path, info, recordings)


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory) -> Peaceful:
    folder = tmp_path_factory.mktemp("peaceful")
    write_sound(folder / "records")
    exp = Experiment(
        task=TASK,
        data=Data(path=str(folder / "records")),
        optim=Optim(lr=1e-2, warmup=0.25),
        train=Train(steps=STEPS, batch_size=4, log_every=1, checkpoint_every=3),
        eval=Eval(every=2, crops=6),
    ).resolved()
    return Peaceful(exp, folder / "run", pretrain(exp, folder / "run"))


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """One report, that of the peaceful run, is enough: each takes seconds to draw."""
    monkeypatch.setattr("neurofm.report.page.render", lambda runs, out: out)


@pytest.fixture
def at_step_3(peaceful, tmp_path) -> Path:
    """A run of which nothing is left after the checkpoint of step 3."""
    shutil.copytree(peaceful.workdir, tmp_path / "run")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    return tmp_path / "run"


def told(workdir: Path, every: int = 1) -> list[dict]:
    """The rows of a run but for what the clock says, losses as they were written."""
    rows = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["step"] % every == 0:
            clock = ("time/", "throughput/")
            rows.append({k: v for k, v in row.items() if not k.startswith(clock)})
    return rows


def variables(workdir: Path, step: int = STEPS):
    return restore_params(workdir / "checkpoints" / str(step))[0]


def assert_identical(got, wanted) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def checksums(workdir: Path, step: int = STEPS) -> dict:
    """Of every array of a checkpoint, the optimizer's too."""
    record = workdir / "checkpoints" / str(step) / "meta.json"
    return json.loads(record.read_text())["leaves"]


def assert_as_if_in_peace(workdir: Path, peaceful: Peaceful) -> None:
    assert told(workdir) == told(peaceful.workdir)
    assert_identical(variables(workdir), variables(peaceful.workdir))
    assert checksums(workdir) == checksums(peaceful.workdir)


def run(*words: str, stop: str = "SIGKILL never 0", **environment: str):
    """A command in a process of its own, and when it is to send itself a signal.

    Returns:
      exit code (of a process that died of a signal, minus its number), stdout, stderr.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment |= {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "STOP": stop}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


def pretrain_words(peaceful: Peaceful, folder: Path, *more: str) -> list[str]:
    """The command that runs the peaceful experiment in `folder / "a run"`."""
    text = json.dumps(config.to_json(peaceful.exp))
    (folder / "config.py").write_text(f"EXPERIMENT = {text!r}\n{CONFIG}")
    words = ["neurofm", "pretrain", str(folder / "config.py")]
    return [*words, "--workdir", str(folder / "a run"), *more]


# ---- left in peace -------------------------------------------------------------------


def test_a_run_leaves_every_step_and_evaluation_once_and_what_was_promised(peaceful):
    rows = read_rows(peaceful.workdir / "metrics.jsonl")
    assert [r["step"] for r in rows if "train/loss" in r] == [*range(1, STEPS + 1)]
    assert [r["step"] for r in rows if "eval/loss" in r] == EVALUATED
    assert all(math.isfinite(value) for row in rows for value in row.values())
    for key in ("optim/grad_norm/encoder", "monitor/item_var", "time/step_s"):
        assert key in rows[-2]
    folder = peaceful.workdir / "checkpoints"
    assert sorted(int(path.name) for path in folder.iterdir()) == SAVED
    names = {path.name for path in peaceful.workdir.iterdir()}
    assert names >= {"config.json", "env.json", "log.txt", "report.html"}
    outcome = peaceful.outcome
    assert (outcome.status, outcome.step) == ("done", STEPS)
    assert outcome.row["train/loss"] == rows[-2]["train/loss"]
    shares = {k: v for k, v in outcome.goodput.items() if k != "wall_hours"}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["compile"] > 0
    assert shares["lost"] == 0


def test_the_files_that_were_trained_on_are_noted_and_those_held_out_are_not(peaceful):
    seen = (peaceful.workdir / "pretrained_on.txt").read_text().split()
    assert seen == [f"{i:064x}" for i in range(12) if i % 4 != 3]


def test_a_checkpoint_says_what_made_it(peaceful):
    meta = read_meta(peaceful.workdir / "checkpoints" / "6")
    assert meta["step"] == 6
    assert config.from_json(meta["config"]) == peaceful.exp
    assert meta["mesh"] == {"replica": 1, "data": 1, "fsdp": 1, "tensor": 1}
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["clock"]["steps"] == 6


def test_a_finished_run_is_done_at_once_and_stays_as_it_is(peaceful):
    shown, before = [], (peaceful.workdir / "metrics.jsonl").read_bytes()
    again = pretrain(peaceful.exp, peaceful.workdir, lambda *row: shown.append(row))
    assert (again.status, again.step, shown) == ("done", STEPS, [])
    assert (peaceful.workdir / "metrics.jsonl").read_bytes() == before


# ---- killed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment", ["record 6", pytest.param("row 7", marks=pytest.mark.slow)]
)
def test_a_run_killed_and_started_again_ends_as_if_in_peace(peaceful, tmp_path, moment):
    words = pretrain_words(peaceful, tmp_path)
    code, _, err = run(*words, stop=f"SIGKILL {moment}")
    assert code == -9, err
    workdir = tmp_path / "a run"
    assert latest(workdir / "checkpoints") in ((3,) if "record" in moment else (3, 6))
    outcome = pretrain(peaceful.exp, workdir)
    assert outcome.status == "done"
    assert outcome.goodput["lost"] > 0
    assert_as_if_in_peace(workdir, peaceful)


def test_a_run_killed_before_its_first_checkpoint_evaluates_step_0_once(
    peaceful, tmp_path
):
    class Killed(BaseException):
        pass

    def kill(step, row):
        raise Killed

    with pytest.raises(Killed):
        pretrain(peaceful.exp, tmp_path / "run", kill)
    assert [row["step"] for row in told(tmp_path / "run")] == [0]
    pretrain(peaceful.exp, tmp_path / "run")
    assert_as_if_in_peace(tmp_path / "run", peaceful)


def test_a_folder_whose_run_was_killed_while_it_was_made_is_free(peaceful, tmp_path):
    for draft in (".env.json.7.partial", ".config.json.7.partial"):
        (tmp_path / draft).write_text("{")
    Workdir.claim(tmp_path, peaceful.exp, ["a"])
    assert json.loads((tmp_path / "config.json").read_text())


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(
    peaceful, tmp_path, caplog
):
    workdir = tmp_path / "run"
    shutil.copytree(peaceful.workdir, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    data = [*(workdir / "checkpoints" / "6").rglob("d/*")]
    largest = max(data, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)

    assert pretrain(peaceful.exp, workdir).status == "done"

    words = "going on from checkpoint 3, passing over step 6"
    assert [r.levelname for r in caplog.records if words in r.message] == ["WARNING"]
    assert words in (workdir / "log.txt").read_text()
    assert_as_if_in_peace(workdir, peaceful)


# ---- stopped -------------------------------------------------------------------------


def test_sigterm_saves_exits_42_and_tells_the_command_that_goes_on(peaceful, tmp_path):
    words = pretrain_words(peaceful, tmp_path, "--json")
    code, out, err = run(*words, stop="SIGTERM row 4")
    assert code == 42, err
    told_json = json.loads(out)
    assert (told_json["status"], told_json["step"]) == ("preempted", 4)
    assert 0 < told_json["goodput"]["train"] < 1
    assert latest(tmp_path / "a run" / "checkpoints") == 4
    message = told_json["message"]
    assert message.startswith("preempted at step 4 of 8, saved; go on with the same")
    command = shlex.split(message[message.index("neurofm ") :])
    assert command[-2:] == ["--workdir", str(tmp_path / "a run")]

    code, out, err = run(*command)
    assert code == 0, err
    assert re.match(r"done: 8 steps, \d+% of .* in steps; next: neurofm embed ", out)
    assert_as_if_in_peace(tmp_path / "a run", peaceful)


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(peaceful, tmp_path):
    words = pretrain_words(peaceful, tmp_path)
    code, out, err = run(*words, stop="SIGINT row 2")
    assert code == 130, err
    assert out.startswith("interrupted at step 2 of 8, saved; go on with the same")
    assert "Traceback" not in err
    assert latest(tmp_path / "a run" / "checkpoints") == 2
    pretrain(peaceful.exp, tmp_path / "a run")
    assert_as_if_in_peace(tmp_path / "a run", peaceful)


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("SIGTERM", 42, "preempted"), ("SIGINT", 130, "interrupted")],
)
def test_a_signal_before_the_first_step_ends_as_one_in_the_loop(
    peaceful, tmp_path, name, code, status
):
    words = pretrain_words(peaceful, tmp_path, "--json")
    got, out, err = run(*words, stop=f"{name} config 0")
    assert got == code, err
    assert "Traceback" not in err
    assert "a library that prints" in err
    result = json.loads(out)
    assert (result["status"], result["step"]) == (status, 0)
    assert result["message"].startswith(
        f"{status} before the first step, so nothing was saved; go on with the same"
    )
    assert latest(tmp_path / "a run" / "checkpoints") is None


def test_a_signal_while_restoring_names_what_is_saved(peaceful, at_step_3, monkeypatch):
    restore = Checkpoints.restore

    def stopped(self, wanted):
        os.kill(os.getpid(), signal.SIGTERM)
        return restore(self, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "restore", stopped)
        outcome = pretrain(peaceful.exp, at_step_3)
    assert (outcome.status, outcome.step) == ("preempted", 3)
    assert outcome.sentence.startswith("preempted at step 3 of 8, saved; go on with")
    assert pretrain(peaceful.exp, at_step_3).status == "done"
    assert_as_if_in_peace(at_step_3, peaceful)


# ---- whose folder it is --------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (("task.depth=3",), ["task.depth: 2 -> 3"]),
        (("optim.lr=1",), ["optim.lr: 0.01 -> 1.0"]),
        (
            ("seed=1", "train.log_every=7", "train.batch_size=8"),
            ["seed: 0 -> 1", "train.batch_size: 4 -> 8"],
        ),
    ],
)
def test_another_experiment_is_refused_with_the_difference_and_leaves_no_trace(
    peaceful, settings, lines
):
    before = {p: p.read_bytes() for p in peaceful.workdir.iterdir() if p.is_file()}
    with pytest.raises(NeuroFMError) as refused:
        pretrain(config.override(peaceful.exp, settings), peaceful.workdir)
    head, *table, advice = str(refused.value).splitlines()
    assert head == f"{peaceful.workdir} holds another run, which differs in"
    assert [line.strip() for line in table] == lines
    assert "--workdir" in advice
    after = {p: p.read_bytes() for p in peaceful.workdir.iterdir() if p.is_file()}
    assert after == before


def test_other_data_at_the_same_path_are_refused(peaceful, tmp_path):
    path, workdir = tmp_path / "records", tmp_path / "run"
    write_sound(path)
    shutil.copytree(peaceful.workdir, workdir)
    exp = config.override(peaceful.exp, (f"data.path={path}",))
    assert pretrain(exp, workdir).status == "done"
    shutil.rmtree(path)
    write_sound(path, seed=1)
    with pytest.raises(NeuroFMError, match=f"{workdir} was trained on other data"):
        pretrain(exp, workdir)


def test_a_folder_of_something_else_is_refused(peaceful, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(NeuroFMError, match="exists and is not a run"):
        pretrain(peaceful.exp, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_in_which_nothing_was_trained_takes_the_corrected_command(
    peaceful, tmp_path
):
    wrong = config.override(peaceful.exp, ("task.sfreq=4000",))
    with pytest.raises(NeuroFMError, match=r"has sfreq 2000.* model takes 4000"):
        pretrain(wrong, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").is_file()
    Workdir.claim(tmp_path / "run", peaceful.exp, ["another hash"])


def test_other_placement_goes_on_to_the_same_end(peaceful, at_step_3, tmp_path):
    shutil.copytree(peaceful.exp.data.path, tmp_path / "copy")
    moved = config.override(
        peaceful.exp,
        (
            f"data.path={tmp_path / 'copy'}",
            "data.workers=1",
            "train.log_every=2",
            "train.checkpoint_every=7",
            "mesh.data=1",
            "mesh.fsdp=-1",
        ),
    )
    assert pretrain(moved, at_step_3).status == "done"
    assert told(at_step_3, every=2) == told(peaceful.workdir, every=2)
    assert latest(at_step_3 / "checkpoints") == STEPS
    assert_identical(variables(at_step_3), variables(peaceful.workdir))
    saved = json.loads((at_step_3 / "config.json").read_text())
    assert saved["train"]["log_every"] == 2


# ---- led astray ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(peaceful, tmp_path):
    wild = ("optim.lr=1e30", "optim.warmup=0.4", "train.checkpoint_every=1")
    exp = config.override(peaceful.exp, (*wild, "eval.every=0"))
    with pytest.raises(NeuroFMError, match=r"^step \d+: the loss is ") as stop:
        pretrain(exp, tmp_path / "run")
    message = str(stop.value)
    step = int(message.split(":")[0].removeprefix("step "))
    assert 1 < step < STEPS
    assert "encoder" in message
    saved = Checkpoints(tmp_path / "run" / "checkpoints").steps()
    assert saved
    assert max(saved) < step
    for leaf in jax.tree.leaves(variables(tmp_path / "run", max(saved))):
        assert np.isfinite(leaf).all()


def test_collapse_saves_and_stops_and_the_told_setting_goes_on(
    peaceful, at_step_3, caplog
):
    # Under a share this large every variance after the first counts as collapse.
    strict = config.override(peaceful.exp, ("train.collapse_share=1e6",))
    outcome = pretrain(strict, at_step_3)
    assert (outcome.status, outcome.step) == ("collapsed", 6)
    assert latest(at_step_3 / "checkpoints") == 6
    assert "step 6: the variance between items fell to" in caplog.text
    assert outcome.sentence.startswith("collapsed at step 6 of 8, saved; ")
    setting = outcome.sentence.split()[-1]
    assert setting == "train.collapse_share=0"
    assert pretrain(config.override(strict, (setting,)), at_step_3).status == "done"
    assert_as_if_in_peace(at_step_3, peaceful)


# ---- from another model --------------------------------------------------------------


def test_a_run_starts_from_the_model_it_is_given(peaceful, tmp_path):
    start = replace(peaceful.exp.init, path=str(peaceful.workdir))
    exp = replace(peaceful.exp, init=start, train=replace(peaceful.exp.train, steps=8))

    class Enough(BaseException):
        pass

    def first(step, row):
        raise Enough

    with pytest.raises(Enough):
        pretrain(exp, tmp_path / "run", first)
    (begin,) = told(tmp_path / "run")
    end = told(peaceful.workdir)[-1]
    assert begin["step"] == 0
    assert end["step"] == STEPS
    losses = {k: v for k, v in end.items() if k.startswith("eval/")}
    assert {k: v for k, v in begin.items() if k.startswith("eval/")} == losses


def test_a_model_of_other_sizes_is_refused(peaceful):
    state = {"params": {"w": jnp.zeros(3)}, "slow": {}, "buffers": {}}
    with pytest.raises(NeuroFMError, match=r"other arrays than task wavjepa makes"):
        start_from(str(peaceful.workdir), state, peaceful.exp.task)


# ---- several processes ---------------------------------------------------------------


def tasks_of_srun(n: int, peaceful: Peaceful, folder: Path, *more: str, first="row 0"):
    """Run `n` processes with what srun sets; the first gets SIGTERM at a moment.

    Returns:
      exit code, result and stderr of each.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": f"{n}",
        "SLURM_NTASKS": f"{n}",
        "JAX_COORDINATOR_PORT": f"{port}",
    }
    words = pretrain_words(peaceful, folder, "--json", *more)

    def task(i: int):
        mine = {"SLURM_PROCID": f"{i}", "SLURM_LOCALID": f"{i}", **FAST_COMPILE}
        stop = f"SIGTERM {first}" if i == 0 else "SIGTERM never 0"
        code, out, err = run(*words, stop=stop, **step, **mine)
        return code, json.loads(out), err

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(task, range(n)))


def test_two_processes_train_as_one_stop_together_and_go_on(peaceful, tmp_path):
    def preempted_at_5():
        for i, (code, result, err) in enumerate(
            tasks_of_srun(2, peaceful, tmp_path, first="row 4")
        ):
            assert code == 42, err
            assert result["message"].startswith("preempted at step 5 of 8, saved")
            assert result["started"] == {
                "by": "slurm",
                "processes": 2,
                "process": i,
                "devices": 2,
                "local_devices": 1,
            }

    preempted_at_5()  # a signal to one of them stops both
    workdir = tmp_path / "a run"
    got = told(workdir)
    assert_close_rows(got, [r for r in told(peaceful.workdir) if r["step"] <= 5])
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "5"]
    assert read_meta(workdir / "checkpoints" / "5")["mesh"]["data"] == 2
    assert (
        "started slurm: process 0 of 2, with 1 of" in (workdir / "log.txt").read_text()
    )

    # The same two go on from step 3 to the same bits.
    end = checksums(workdir, step=5)
    shutil.rmtree(workdir / "checkpoints" / "5")
    preempted_at_5()
    assert told(workdir) == got
    assert checksums(workdir, step=5) == end

    assert pretrain(peaceful.exp, workdir).status == "done"
    assert_ends_close_to_peace(workdir, peaceful)


def assert_close_rows(rows: list[dict], wanted: list[dict], rtol: float = 1e-5) -> None:
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for row, row_2 in zip(rows, wanted, strict=True):
        for key in {"train/loss", "eval/loss", "optim/lr", "data/hours"} & row.keys():
            np.testing.assert_allclose(row[key], row_2[key], rtol=rtol, err_msg=key)


def assert_ends_close_to_peace(workdir: Path, peaceful: Peaceful) -> None:
    end, end_2 = told(workdir)[-1], told(peaceful.workdir)[-1]
    assert end["step"] == end_2["step"] == STEPS
    np.testing.assert_allclose(end["eval/loss"], end_2["eval/loss"], rtol=1e-4)
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "mesh"), [(2, "mesh.tensor=2"), (2, "mesh.fsdp=2"), (4, "mesh.fsdp=2")]
)
def test_other_processes_and_meshes_go_on_with_the_same_data(
    peaceful, at_step_3, tmp_path, n, mesh
):
    shutil.move(at_step_3, tmp_path / "a run")
    for code, result, err in tasks_of_srun(n, peaceful, tmp_path, mesh):
        assert (code, result["step"]) == (0, STEPS), err
    workdir = tmp_path / "a run"
    assert_close_rows(told(workdir), told(peaceful.workdir), rtol=1e-4)
    assert_ends_close_to_peace(workdir, peaceful)
    assert pretrain(peaceful.exp, workdir).status == "done"
