"""Commands that are told to end where a run has nothing to save, or not yet."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neurofm.run.stop import Stop, Terminated, stop_signals, terminable

ROOT = Path(__file__).parents[1]


def python(code: str, *words: str):
    """Exit code, result and stderr of a program, and how long it took."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment | {"NEUROFM_ALLOCATOR": "set"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    result = json.loads(done.stdout) if done.stdout else None
    return done.returncode, result, done.stderr, time.monotonic() - began


# A second after it began to wait for the others, a process gets a signal.
WAITING = """
import os, signal, sys, threading
import jax
from neurofm.cli import cli

number, meet = getattr(signal, sys.argv.pop(1)), jax.distributed.initialize

def struck(*given, **named):
    threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    meet(*given, **named)

jax.distributed.initialize = struck
cli()
"""


def test_a_process_told_to_end_while_it_waits_for_others_ends_at_once(tmp_path):
    def end(name, process):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        return python(
            WAITING,
            *(name, "pretrain", "wavjepa/tiny", "--json"),
            *("--workdir", str(tmp_path / name), "data.path=none"),
            *(f"--coordinator=localhost:{port}", "--num-processes=2"),
            f"--process-id={process}",
        )

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(end, *given) for given in (("SIGTERM", 0), ("SIGINT", 1))]
    for future, code, word in zip(
        ended, (42, 130), ("stopped", "interrupted"), strict=True
    ):
        got, result, err, _ = future.result()
        assert got == code, err
        assert result == {"error": f"{word}; the same command goes on from here"}
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# A command in whose pool a thread works on, as trainings of a quickstart do.
AT_WORK = """
import os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from neurofm.cli.command import cli, command
from neurofm.run import stop

stop.UNWIND_S = 0.3

@command("work")
def work():
    with ThreadPoolExecutor(1) as beside:
        beside.submit(time.sleep, float(os.environ["SECONDS"]))
        print("a library that prints", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

cli(["work", "--json"])
"""


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_a_command_told_to_end_does_so_though_its_threads_go_on(monkeypatch, seconds):
    monkeypatch.setenv("SECONDS", seconds)
    code, result, err, took = python(AT_WORK)
    assert (code, took < 30) == (42, True), err
    assert result == {"error": "stopped; the same command goes on from here"}
    assert "Traceback" not in err


GENERATING = """
import os, signal, sys
from neurofm.cli import cli
from neurofm.simulate import sounds

def struck(*given, **named):
    os.kill(os.getpid(), signal.SIGTERM)

sounds.generate = struck
cli()
"""


def test_a_quickstart_told_to_end_before_it_trains_exits_42(tmp_path):
    words = ("quickstart", "--json", "--workdir", str(tmp_path / "run"))
    code, result, err, _ = python(GENERATING, *words)
    assert code == 42, err
    assert result == {"error": "stopped; the same command goes on from here"}
    assert not (tmp_path / "run" / "records" / "stream").exists()


def test_what_is_held_is_let_go_before_a_command_ends():
    let_go, before = [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable(lambda: None):  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            let_go.append(True)
    assert (let_go, signal.getsignal(signal.SIGTERM)) == ([True], before)


def test_a_signal_that_came_too_late_for_a_run_reaches_what_comes_after():
    with pytest.raises(Terminated), terminable(lambda: None):  # noqa: PT012
        with stop_signals() as outer:
            with stop_signals() as inner:
                os.kill(os.getpid(), signal.SIGTERM)
            inner.hand_on()  # a command that listens itself has it already
            assert outer.name == "SIGTERM"
        outer.hand_on()
    Stop().hand_on()  # none came
