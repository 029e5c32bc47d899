"""Text that is kept beside the tests, so that a change of it is seen and meant."""

import os
from pathlib import Path

HERE = Path(__file__).parent
UPDATE = os.environ.get("NEUROFM_UPDATE_GOLDEN") == "1"


def assert_golden(name: str, text: str) -> None:
    """`text` is what the file `name` holds; NEUROFM_UPDATE_GOLDEN=1 rewrites it."""
    path = HERE / name
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.is_file(), f"no {path}: write it with NEUROFM_UPDATE_GOLDEN=1"
    assert text == path.read_text(), (
        f"differs from {path}; if it is meant, NEUROFM_UPDATE_GOLDEN=1 rewrites it"
    )


def golden_names(folder: str, suffix: str) -> list[str]:
    """The names in a folder of golden texts, without the suffix."""
    root = HERE / folder
    paths = (path.relative_to(root) for path in root.rglob(f"*{suffix}"))
    return sorted(str(path.with_suffix("")) for path in paths)
