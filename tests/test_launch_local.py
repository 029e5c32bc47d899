"""Jobs on this machine: the worker script, the supervision, the commands."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import make_cloud, record_of, tpu

from neurofm.launch import life, local, runner
from neurofm.launch.code import scripts
from neurofm.launch.job import Job, Local
from neurofm.launch.machine import Worker
from neurofm.launch.record import Record

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _records_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROFM_LAUNCH_DIR", str(tmp_path / "launch"))


def job_of(*command, processes=1, port=8476):
    where = Local(processes=processes, port=port)
    job = Job(name="here", where=where, command=command)
    return Record(job, "0123456789ab", ("/", "-"))


def up(record, shown=None):
    """Quick looks; the clock runs faster still, so that no backoff is waited for."""
    start = time.monotonic()
    return life.up(
        record,
        [].append if shown is None else shown.append,
        clock=lambda: 100 * (time.monotonic() - start),
        sleep=lambda seconds: time.sleep(0.02),
    )


# ---- the worker script ---------------------------------------------------------------


def worker(home, *words, **environment):
    done = subprocess.run(
        ["bash", str(scripts() / "run_worker.sh"), *words],
        env={**os.environ, "NEUROFM_LAUNCH_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


def wait_for(home, state):
    for _ in range(200):
        (found,) = Worker.parse(worker(home, "status", "job")[1])
        if found.state == state:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never {state}: {found}")


def test_a_worker_starts_an_attempt_once_and_tells_how_it_ended(tmp_path):
    assert Worker.parse(worker(tmp_path, "status", "job")[1]) == (Worker("absent"),)
    out = tmp_path / "out"
    words = ["bash", "-c", f"echo ran >>{out}; echo step 3; sleep 0.4; exit 42"]
    for _ in range(2):
        assert worker(tmp_path, "start", "job", "1", "-", *words)[0] == 0
    assert worker(tmp_path, "start", "job", "2", "-", "true") == (
        70,
        "neurofm-worker: attempt 1 of job still runs\n",
    )
    assert wait_for(tmp_path, "exited") == Worker("exited", 1, 42, 3)
    assert out.read_text() == "ran\n"
    assert worker(tmp_path, "logs", "job", "1") == (0, "step 3\n")
    assert worker(tmp_path, "start", "job", "1", "-", *words)[0] == 0
    assert out.read_text() == "ran\n"
    assert worker(tmp_path, "start", "job", "2", "-", "no-such-program")[0] == 0
    assert wait_for(tmp_path, "exited") == Worker("exited", 2, 127)


def test_many_starts_at_once_start_one(tmp_path):
    out = tmp_path / "out"
    script = str(scripts() / "run_worker.sh")
    words = ["start", "job", "1", "-", "bash", "-c", f"echo ran >>{out}"]
    environment = {**os.environ, "NEUROFM_LAUNCH_HOME": str(tmp_path)}
    started = [
        subprocess.Popen(
            ["bash", script, *words], env=environment, stdout=subprocess.DEVNULL
        )
        for _ in range(6)
    ]
    assert [one.wait() for one in started] == [0] * 6
    wait_for(tmp_path, "exited")
    assert out.read_text() == "ran\n"


def test_stop_reaches_the_command_and_a_lost_supervisor_is_seen(tmp_path):
    trap = "trap 'exit 42' TERM; echo step 1; sleep 30 & wait"
    worker(tmp_path, "start", "job", "1", "-", "bash", "-c", trap)
    while wait_for(tmp_path, "running").step is None:
        time.sleep(0.02)
    assert "sent SIGTERM" in worker(tmp_path, "stop", "job")[1]
    assert wait_for(tmp_path, "exited").code == 42

    worker(tmp_path, "start", "job", "2", "-", "sleep", "30")
    pid = int((tmp_path / "job" / "run").read_text().split()[1])
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    os.kill(int(stat[1]), 9)  # the supervisor
    wait_for(tmp_path, "running")
    assert "sent SIGKILL" in worker(tmp_path, "kill", "job")[1]
    assert wait_for(tmp_path, "lost").attempt == 2


def test_a_number_of_another_process_is_not_taken_for_the_command(tmp_path):
    worker(tmp_path, "start", "job", "1", "-", "true")
    wait_for(tmp_path, "exited")
    (tmp_path / "job" / "run").write_text(f"1 {os.getpid()} 1\n")
    (tmp_path / "job" / "code").unlink()
    wait_for(tmp_path, "lost")
    assert "does not run" in worker(tmp_path, "kill", "job")[1]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_any_words_reach_the_command_as_they_are(tmp_path_factory, words):
    home = tmp_path_factory.mktemp("home")
    program = 'printf "%s\\0" "$@" >"$0"'
    worker(
        home, "start", "job", "1", "-", "bash", "-c", program, str(home / "o"), *words
    )
    assert wait_for(home, "exited").code == 0
    told = (home / "o").read_bytes().decode()
    assert told == "".join(f"{word}\0" for word in words or [""])


# ---- supervision ---------------------------------------------------------------------


def test_a_job_that_saves_and_stops_is_started_again_until_it_is_done(tmp_path):
    script = (
        f"n=$(cat {tmp_path}/n || echo 0); echo step $n; echo $((n+1)) >{tmp_path}/n"
    )
    shown = []
    state = up(job_of("bash", "-c", f"{script}; [ $n -eq 3 ] || exit 42"), shown)
    assert (state.code, state.attempt, state.best_step) == (0, 4, 3)
    assert "saved and stopped (exit 42); again in 1 s" in shown


def test_a_job_that_dies_three_times_at_one_step_is_given_up(tmp_path):
    state = up(job_of("bash", "-c", "echo step 7; exit 70"))
    assert (state.code, state.attempt) == (70, 3)
    assert state.sentence == "crashed 3 times at step 7: see the log"
    assert life.logs("here", 0, 9) == "step 7"
    again = up(job_of("bash", "-c", "echo mended"))
    assert (again.code, again.attempt) == (0, 4)


def test_every_process_is_told_who_it_is(tmp_path):
    program = f'echo "$@" >{tmp_path}/told-$$'
    state = up(job_of("bash", "-c", program, "x", "given", processes=3, port=9999))
    assert state.code == 0
    told = sorted(path.read_text() for path in tmp_path.glob("told-*"))
    assert told == [
        f"given --coordinator=127.0.0.1:9999 --num-processes=3 --process-id={i}\n"
        for i in range(3)
    ]
    assert local.command(job_of("true").job, 0) == ("true",)


def test_a_program_of_a_plan_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="gcloud is not installed here"):
        runner.call(runner.tpu_vm.describe(record_of(tmp_path / "c", ["true"]).job))


# ---- the commands --------------------------------------------------------------------


def neurofm(*words, cwd=None):
    done = subprocess.run(
        [sys.executable, "-m", "neurofm", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_local_job_from_the_command_line(tmp_path):
    words = ["launch", "up", "here", "--on", "local:2", "--", "bash", "-c"]
    words += [f"echo step 5 >>{tmp_path}/out; echo it ran"]
    code, out, _ = neurofm(*words)
    assert (code, (tmp_path / "out").exists()) == (0, False)
    assert "# 1. start attempt 1 of process 0" in out
    assert out.rstrip().endswith("# Nothing was done: add --yes to do it.")

    at = words.index("--")
    code, out, err = neurofm(*words[:at], "--yes", "--json", *words[at:])
    assert (code, json.loads(out)) == (
        0,
        {"name": "here", "status": "done", "attempt": 1},
    ), err
    assert (tmp_path / "out").read_text() == "step 5\n" * 2
    code, out, _ = neurofm("launch", "up", "here", "--yes")
    assert (code, out) == (0, "here: done before: nothing to do\n")
    assert neurofm("launch", "logs", "here", "--worker", "1")[1] == "it ran\n"
    code, out, _ = neurofm("launch", "status", "here", "--json")
    assert json.loads(out)["exit_code"] == 0
    assert neurofm("launch", "down", "here", "--yes")[0] == 0
    code, _, err = neurofm("launch", "status", "here")
    assert code == 1
    assert "no job 'here' was launched from here" in err


def test_a_local_job_runs_in_its_folder_wherever_it_is_gone_on_with(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    words = ["launch", "up", "here", "--on", "local", "--yes", "--", "bash", "-c"]
    script = "pwd >>told; exit $([ $(wc -l <told) -eq 2 ] || echo 1)"
    assert neurofm(*words, script, cwd=tmp_path / "one")[0] == 1
    assert neurofm("launch", "up", "here", "--yes", cwd=tmp_path / "two")[0] == 0
    assert (tmp_path / "one" / "told").read_text() == f"{tmp_path / 'one'}\n" * 2


def test_the_exit_code_of_up_is_that_of_the_job():
    words = ["launch", "up", "here", "--on", "local", "--yes", "--", "bash", "-c"]
    assert neurofm(*words, "exit 1")[0] == 1


# ---- a real training -----------------------------------------------------------------

CONFIG = """
from neurofm.config import Data, Eval, Experiment, Train
from neurofm.models.wavjepa import WavJEPA
from neurofm.objectives.masks import TimeInverse


def config():
    task = WavJEPA(
        sfreq=2000.0, window_samples=1019, conv_layers=((8, 10, 5), (8, 4, 4)),
        width=16, depth=2, heads=2, predictor_width=8, predictor_depth=1,
        predictor_heads=2, top_k=2, context_caps=(40,),
        masker=TimeInverse(context_length=4, target_length=4),
    )
    train = Train(steps=30, batch_size=4, log_every=1, checkpoint_every=3)
    return Experiment(task=task, data=Data(path="{data}"), train=train,
                      eval=Eval(every=0))
"""


@pytest.mark.slow
def test_a_training_on_two_hosts_survives_a_preemption_bit_for_bit(
    tmp_path, monkeypatch
):
    import numpy as np

    from neurofm.data.records import DatasetInfo
    from neurofm.data.writer import Recording, write_dataset

    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=2000.0, unit="full_scale", ch_names=("mono",)
    )
    waves = rng.uniform(-0.3, 0.3, (12, 1, 1500)).astype(np.float32)
    write_dataset(
        tmp_path / "data",
        info,
        [Recording(item=f"item{i}", samples=w) for i, w in enumerate(waves)],
    )
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("{data}", str(tmp_path / "data")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")

    def trained(name, **preempted):
        (tmp_path / name).mkdir()
        cloud = make_cloud(tmp_path / name, monkeypatch)
        cloud.lives({"states": ["ACTIVE"], **preempted}, {"states": ["ACTIVE"]})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        line = (
            'exec "$0" -m neurofm pretrain "$1" --workdir "$2" '
            f"--coordinator=127.0.0.1:{port} --num-processes=2 "
            '--process-id="$TPU_WORKER_ID"'
        )
        run = str(tmp_path / name / "run")
        words = ["bash", "-c", line, sys.executable, str(config), run]
        state = cloud.up(record_of(tmp_path / name / "code", words, tpu("v4-16")))
        assert state.code == 0, cloud.shown
        told = neurofm("check", run, "--json")
        return json.loads(told[1]), state.attempt

    peaceful, attempts = trained("peaceful")
    assert (peaceful["step"], attempts) == (30, 1)
    struck, attempts = trained("struck", at_step=8, then="SUSPENDED")
    assert (struck["step"], attempts) == (30, 2)
    assert struck["params_sha256"] == peaceful["params_sha256"]
    rows = (tmp_path / "struck" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 31))
