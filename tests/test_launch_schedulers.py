"""Files for GKE and SLURM, run by stand-ins of kubectl and sbatch on this machine."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from launching import TRAIN, make_cloud
from tiny_models import TRAINABLE

from neurofm.cli import cli
from neurofm.launch.job import Gke, Job, Slurm
from neurofm.launch.render import render

ROOT = Path(__file__).parents[1]
NASTY = ("$(HOME)", "$$", "$HOME", "a 'b' \"c\"", "two\nlines", "#x", ": y", "é\t", "")
TELL = 'printf "%s\\0" "$@" >"$0.$$"; exit '  # a file a task: they write at once


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = make_cloud(tmp_path, monkeypatch)
    made.lives({})
    (made.folder / "secrets.json").write_text('{"base-env": {"TOKEN": "x\\ny"}}')
    return made


def sbatch(folder, command, **where):
    """Exit code of a rendered job, what was said, and the job's log."""
    options = {"env": where.pop("env", ())}
    where = Slurm(**{"nodes": 2, "gpus_per_node": 8} | where)
    script = folder / "train.slurm"
    script.write_text(render(Job(name="base", where=where, command=command, **options)))
    words = ["sbatch", "--wait", str(script)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    log = folder / "base-17.log"
    return done.returncode, done.stderr, log.read_text() if log.exists() else ""


def kubectl(*words):
    done = subprocess.run(["kubectl", *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def jobset(folder, command, env=(), **where):
    """How a rendered set ended and how often it was restarted, its pods' log."""
    where = Gke(**{"accelerator": "v4-16", "image": "registry/neurofm:1"} | where)
    manifest = folder / "jobset.yaml"
    made = Job(name="base", where=where, command=command, env=env)
    manifest.write_text(render(made))
    code, told = kubectl("apply", "-f", str(manifest))
    assert code == 0, told
    code, told = kubectl("wait", "--for=condition=Completed", "jobset/base")
    found = json.loads(told)
    assert (code == 0) == (found["condition"] == "Completed")
    return found, (folder / "cloud" / "pods.log").read_text()


def train_words(folder):
    (folder / "shared").mkdir()
    return ("bash", "-c", TRAIN, "train", str(folder / "shared"), "0.05")


def ended_at(folder):
    return [int(p.read_text()) for p in sorted((folder / "shared").glob("state-?"))]


# ---- SLURM ---------------------------------------------------------------------------


def test_every_task_of_a_slurm_job_gets_its_words_and_its_place(tmp_path, cloud):
    words = ("bash", "-c", TELL + "0", str(tmp_path / "told"), *NASTY)
    code, err, log = sbatch(tmp_path, words, partition="gpu")
    assert (code, err, log) == (0, "", "")
    told = [p.read_bytes().decode().split("\0")[:-1] for p in tmp_path.glob("told.*")]
    ends = [
        ["--coordinator=127.0.0.1:8476", "--num-processes=2", f"--process-id={i}"]
        for i in (0, 1)
    ]
    assert sorted(told) == [[*NASTY, *end] for end in ends]


def test_a_slurm_job_that_is_preempted_comes_back_and_goes_on(tmp_path, cloud):
    cloud.lives({"at_step": 5}, {})
    code, err, log = sbatch(tmp_path, train_words(tmp_path))
    assert (code, err, ended_at(tmp_path)) == (0, "", [12, 12])
    assert log.count("saved") == log.count("going on from 0") == 2
    assert log.count("going on from") == 4


def test_a_slurm_job_with_a_users_error_ends_with_it(tmp_path, cloud):
    code, _, log = sbatch(tmp_path, ("bash", "-c", "echo it is wrong; exit 1"))
    assert (code, log) == (1, "it is wrong\n" * 2)


def test_a_slurm_job_names_the_variable_that_is_missing(tmp_path, cloud, monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    code, _, log = sbatch(tmp_path, ("true",), env=("NO_SUCH_VARIABLE",))
    assert code != 0
    assert "NO_SUCH_VARIABLE: is not set: export it before sbatch" in log


# ---- JobSet --------------------------------------------------------------------------


def test_every_pod_of_a_jobset_gets_its_words_and_secrets(tmp_path, cloud):
    program = 'printf "%s\\0" "$TOKEN" "$JOB_COMPLETION_INDEX" "$@" >"$0-$HOSTNAME"'
    program = program.replace("$HOSTNAME", "$MEGASCALE_SLICE_ID-$TPU_WORKER_ID")
    words = ("bash", "-c", program, str(tmp_path / "told"), *NASTY)
    found, log = jobset(tmp_path, words, slices=3, spot=False, env=("TOKEN",))
    assert (found, log) == ({"condition": "Completed", "restarts": 0}, "")
    told = {path.name: path.read_bytes().decode() for path in tmp_path.glob("told-*")}
    assert told == {
        f"told-{slice_}-{i}": "".join(f"{w}\0" for w in ("x\ny", str(i), *NASTY))
        for slice_ in range(3)
        for i in range(2)
    }


def test_a_jobset_that_is_preempted_starts_again_and_goes_on(tmp_path, cloud):
    cloud.lives({"at_step": 5}, {})
    found, log = jobset(tmp_path, train_words(tmp_path))
    assert found == {"condition": "Completed", "restarts": 1}
    assert ended_at(tmp_path) == [12, 12]
    assert log.count("saved") == log.count("going on from 0") == 2


@pytest.mark.parametrize(
    ("code", "restarts"), [(1, 0), (127, 0), (70, 3)], ids=["error", "missing", "fault"]
)
def test_a_jobset_ends_at_once_for_a_users_error_alone(tmp_path, cloud, code, restarts):
    found, _ = jobset(tmp_path, ("bash", "-c", f"exit {code}"), restarts=3)
    assert found == {"condition": "Failed", "restarts": restarts}


def test_a_manifest_of_any_slice_is_accepted_and_an_altered_one_is_not(tmp_path, cloud):
    words = ["launch", "render", "base", "--to", "jobset", "--image", "registry/x:1"]
    for on, *more in (["v5e:4x4", "--slices", "2"], ["v6e:4x4", "--no-spot"], ["v4-8"]):
        told = CliRunner().invoke(cli, [*words, "--on", on, *more, "--", "true"])
        (tmp_path / "jobset.yaml").write_text(told.stdout)
        code, said = kubectl("apply", "-f", str(tmp_path / "jobset.yaml"))
        assert (code, said) == (0, "jobset.jobset.x-k8s.io/base created\n")
    for right, wrong, why in (
        ("backoffLimit", "backofLimit", 'unknown field "spec.replicatedJobs[0]'),
        ("parallelism: 1", "parallelism: 2", "completions is not parallelism"),
        ("values: [1, ", "values: [200, ", "must be ordered"),
        ("topology: 2x2x1", "topology: 2x2x2", "are no 8 chips"),
        ("kind: JobSet\n", "", "kind: Required value"),
    ):
        assert right in told.stdout
        text = told.stdout.replace(right, wrong)
        (tmp_path / "jobset.yaml").write_text(text)
        code, said = kubectl("apply", "-f", str(tmp_path / "jobset.yaml"))
        assert code == 1
        assert why in said


# ---- a real training -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["slurm", "jobset"])
def test_a_training_runs_over_two_processes_of_a_scheduler(
    tmp_path, cloud, monkeypatch, scheduler
):
    from test_train import write_sound

    from neurofm import config
    from neurofm.config import Data, Eval, Experiment, Train

    write_sound(tmp_path / "records")
    exp = Experiment(
        task=TRAINABLE,
        data=Data(path=str(tmp_path / "records")),
        train=Train(steps=3, batch_size=4, log_every=1, checkpoint_every=3),
        eval=Eval(every=0),
    ).resolved()
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(exp)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (sys.executable, "-m", "neurofm", "pretrain", str(tmp_path / "config.json"))
    words += ("--workdir", str(tmp_path / "run"))
    if scheduler == "slurm":
        code, err, log = sbatch(tmp_path, words, gpus_per_node=1, port=port)
        assert (code, err) == (0, ""), log
    else:
        meet = f"--coordinator=127.0.0.1:{port} --num-processes=2"
        line = f'exec "$@" {meet} --process-id="$TPU_WORKER_ID"'
        found, log = jobset(tmp_path, ("bash", "-c", line, "neurofm", *words))
        assert found == {"condition": "Completed", "restarts": 0}, log
    assert log.count("done: 3 steps") == 2, log
    told = (tmp_path / "run" / "log.txt").read_text()
    assert "process 0 of 2" in told
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]
