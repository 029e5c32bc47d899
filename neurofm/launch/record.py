"""What is kept here of a job, so that it is found again by its name.

A folder a job, by default in ~/.neurofm/launch, or below $NEUROFM_LAUNCH_DIR:
`job.json` (the job, its owner mark and the hash of its code), `state.json` (of the
supervising machine), `journal.jsonl` (every action, when, and how it ended) and the
last logs. There are no credentials and no values of variables in it.
"""

import getpass
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurofm import files
from neurofm.errors import NeuroFMError
from neurofm.launch.job import Job
from neurofm.launch.machine import State


def root() -> Path:
    default = Path.home() / ".neurofm" / "launch"
    return Path(os.environ.get("NEUROFM_LAUNCH_DIR") or default).absolute()


def owner() -> str:
    """A mark for this user on this machine, which tells resources of one name apart."""
    who = f"{getpass.getuser()}@{platform.node()}"
    return hashlib.sha256(who.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """A job that was launched from here.

    Attributes:
      code: folder of the code, and its hash; a local job runs in the folder, unhashed.
    """

    job: Job
    owner: str
    code: tuple[str, str]

    @property
    def folder(self) -> Path:
        return root() / self.job.name

    @classmethod
    def load(cls, name: str) -> "Record":
        """Raises NeuroFMError where no such job was launched from here."""
        path = root() / name / "job.json"
        if not path.is_file():
            known = sorted(p.parent.name for p in root().glob("*/job.json"))
            raise NeuroFMError(
                f"no job {name!r} was launched from here: give one of "
                f"{', '.join(known) or '(none)'}, or launch it with `neurofm launch up`"
            )
        kept = json.loads(path.read_text())
        folder, sha256 = kept["code"]
        return cls(Job.from_json(kept["job"]), kept["owner"], (folder, sha256))

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {"job": self.job.to_json(), "owner": self.owner, "code": self.code}
        files.write_json(self.folder / "job.json", kept)

    def forget(self) -> None:
        """The name is free again; journal and logs stay to be read."""
        for name in ("job.json", "state.json", "stop"):
            (self.folder / name).unlink(missing_ok=True)

    # ---- the machine's memory --------------------------------------------------------

    def state(self) -> State:
        path = self.folder / "state.json"
        return State(**json.loads(path.read_text())) if path.is_file() else State()

    def keep(self, state: State) -> None:
        files.write_json(self.folder / "state.json", asdict(state))

    def journal(self, entry: dict[str, Any]) -> None:
        with (self.folder / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), **entry}) + "\n")

    # ---- a wish to stop, which a watch elsewhere reads -------------------------------

    @property
    def stop_asked(self) -> bool:
        return (self.folder / "stop").exists()

    def ask_to_stop(self) -> None:
        (self.folder / "stop").touch()

    def go_on(self) -> None:
        (self.folder / "stop").unlink(missing_ok=True)
