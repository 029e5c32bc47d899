"""A plain, non-editable install holds the recipes and the readers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
import json, sys, neurofm, data_pipelines
from neurofm import config
print(json.dumps({
    "configs": config.shipped(),
    "from": [neurofm.__file__, data_pipelines.__file__],
    "steps": config.load("wavjepa/base").train.steps,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", str(folder), str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def run(installed, *command):
    # -P keeps the checkout off the path: what is imported is what was installed.
    done = subprocess.run(
        [sys.executable, "-P", *command],
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_recipes_are_found(installed):
    found = json.loads(run(installed, "-c", PROBE))
    assert all(Path(name).is_relative_to(installed) for name in found["from"])
    assert {"wavjepa/base", "wavjepa/tiny", "wavjepa/quickstart"} <= set(
        found["configs"]
    )
    assert found["steps"] == 375_000


def test_the_command_starts(installed):
    assert "quickstart" in run(installed, "-m", "neurofm", "--help")
