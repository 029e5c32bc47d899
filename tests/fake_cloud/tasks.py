"""Programs started together, struck by SIGTERM at a step that a scenario names.

`$FAKE_CLOUD/scenario.json` is a list of lives; {"at_step": N} ends one, once a program
has printed `step N`.
"""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])


def fail(text, code=1):
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def at_step(life):
    lives = json.loads((CLOUD / "scenario.json").read_text())
    return lives[min(life, len(lives) - 1)].get("at_step")


def run(tasks, strike, log, together=False):
    """Exit codes of programs, each given as (argv, environment, folder).

    With `together` one that fails ends the others.
    """
    started = [
        subprocess.Popen(
            argv,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for argv, environment, folder in tasks
    ]
    writing, ended = threading.Lock(), threading.Event()

    def end_all():
        if not ended.is_set():
            ended.set()
            for each in started:
                each.terminate()

    def follow(process):
        for line in process.stdout:
            with writing:
                log.write(line)
                log.flush()
                step = re.match(r"step (\d+)", line)
                if strike is not None and step and int(step[1]) >= strike:
                    end_all()
        if process.wait() and together:
            with writing:
                end_all()

    threads = [threading.Thread(target=follow, args=[each]) for each in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [
        code if code >= 0 else 128 - code for code in (p.returncode for p in started)
    ]
