"""The exact code of a job: which files, their hash, and one archive of them.

A tree is what git tracks or would track; without git, everything but hidden folders.
The hash covers names, contents and execute bits, so equal code has an equal name and is
sent to a worker once.
"""

import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from neurofm.errors import NeuroFMError

SCRIPTS = ("setup_vm.sh", "run_worker.sh")
INSIDE = ".neurofm-launch"  # where the scripts lie in an unpacked tree
LARGEST = 200 * 2**20


@dataclass(frozen=True)
class Tree:
    """Files below `root`, and the sha256 of all of them."""

    root: Path
    sha256: str
    files: tuple[str, ...]


def scripts() -> Path:
    """The folder of the worker scripts: in a checkout, or in an installed package."""
    package = Path(__file__).parents[1]
    for folder in (package / "_tpu", package.parent / "tpu"):
        if (folder / SCRIPTS[0]).is_file():
            return folder
    raise FileNotFoundError(f"{SCRIPTS[0]} belongs to neurofm and is not there")


def tree(root: Path) -> Tree:
    """Read the tree at `root`.

    Raises:
      NeuroFMError: nothing to install there, or files too large to be code.
    """
    root = root.resolve()
    if not (root / "pyproject.toml").is_file():
        raise NeuroFMError(
            f"{root} has no pyproject.toml, so it cannot be installed on workers: "
            "start from the project's folder, or name it with --code"
        )
    files = _listed(root)
    total = sum((root / name).stat().st_size for name in files)
    if total > LARGEST:
        raise NeuroFMError(
            f"{root} holds {total / 2**20:.0f} MiB that git does not ignore, and at "
            f"most {LARGEST / 2**20:.0f} are sent: add data and runs to .gitignore"
        )
    digest = hashlib.sha256()
    for name, path in _with_scripts(root, files):
        executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{executable}\0{content}\n".encode())
    return Tree(root, digest.hexdigest()[:16], tuple(files))


def _with_scripts(root: Path, files: list[str] | tuple[str, ...]):
    yield from ((name, root / name) for name in files)
    yield from ((f"{INSIDE}/{name}", scripts() / name) for name in SCRIPTS)


def _listed(root: Path) -> list[str]:
    git = ["git", "-C", str(root), "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    try:
        done = subprocess.run(git, capture_output=True, check=False)
        names = done.stdout.decode().split("\0") if done.returncode == 0 else None
    except FileNotFoundError:
        names = None
    if names is None:
        paths = (path.relative_to(root) for path in root.rglob("*"))
        names = [str(p) for p in paths if not any(s.startswith(".") for s in p.parts)]
    # A tracked file may have been deleted, and a link is followed only to a file.
    return sorted({name for name in names if name and (root / name).is_file()})


def pack(made: Tree, out: Path) -> None:
    """Write the archive of a tree, with the same bytes for the same files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.partial")
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in _with_scripts(made.root, made.files):
            content = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    draft.replace(out)
