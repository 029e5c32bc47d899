"""A stand-in cloud for tests of launching: a folder, a PATH and a quick clock."""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from neurofm.launch import life
from neurofm.launch.job import Job, TpuVM
from neurofm.launch.record import Record

FAKES = Path(__file__).parent / "fake_cloud"
ACTIVE = {"states": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]}
MUTATING = ("create", "delete")

# Trains to step 12, one file of state a worker; SIGTERM saves and exits 42.
TRAIN = """
state="$1/state-${TPU_WORKER_ID:-$SLURM_PROCID}"
trap 'echo saved; exit 42' TERM
n=$(cat "$state" 2>/dev/null || echo 0)
echo "going on from $n"
while [ "$n" -lt 12 ]; do
  n=$((n + 1))
  echo "$n" >"$state.new" && mv "$state.new" "$state"
  echo "step $n"
  sleep "${2:-0.05}" & wait $!
done
"""


@dataclass
class Cloud:
    """What the stand-in was told to do, and what was asked of it."""

    folder: Path
    now: float = 0.0
    shown: list[str] = field(default_factory=list)

    def lives(self, *lives):
        (self.folder / "scenario.json").write_text(json.dumps(lives))

    def calls(self):
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def asked(self, verb):
        return [words for words in self.calls() if words[3:4] == [verb]]

    @property
    def resource(self):
        path = self.folder / "resource.json"
        return json.loads(path.read_text()) if path.exists() else None

    def sleep(self, seconds):
        """Seconds of a poll pass at once, but for the workers' own time."""
        self.now += seconds
        if (self.resource or {}).get("state") == "ACTIVE":
            time.sleep(0.05)

    def up(self, record, **options):
        return life.up(
            record,
            self.shown.append,
            clock=lambda: self.now,
            sleep=self.sleep,
            **options,
        )


def make_cloud(tmp_path, monkeypatch) -> Cloud:
    cloud = Cloud(tmp_path / "cloud")
    cloud.folder.mkdir()
    cloud.lives(ACTIVE)
    monkeypatch.setenv("FAKE_CLOUD", str(cloud.folder))
    path = [str(FAKES), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("NEUROFM_LAUNCH_DIR", str(tmp_path / "launch"))
    return cloud


def project(folder: Path) -> Path:
    """A folder of code that can be sent."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    (folder / "a file.txt").write_text("sent\n")
    return folder


def tpu(accelerator="v4-16", **options):
    """Two hosts, where the stand-in has them."""
    return TpuVM(
        accelerator=accelerator,
        zone="us-central2-b",
        project="my-project",
        **options,
    )


def record_of(code: Path, command, where=None, **options) -> Record:
    from neurofm.launch.code import tree

    made = tree(project(code))
    job = Job(name="base", where=where or tpu(), command=tuple(command), **options)
    return Record(job, "0123456789ab", (str(made.root), made.sha256))
