"""A run's folder whose own files were lost or damaged."""

import pytest
from tiny_models import TINY

from neurofm.config import Experiment
from neurofm.errors import NeuroFMError
from neurofm.run.workdir import Workdir


@pytest.mark.parametrize("file", ["config.json", "env.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_run_with_a_damaged_description_is_refused_and_kept(tmp_path, file, damage):
    exp = Experiment(task=TINY)
    Workdir.claim(tmp_path / "run", exp, ["a hash"])
    (tmp_path / "run" / "checkpoints").mkdir()
    if damage == "cut":
        (tmp_path / "run" / file).write_text("{")
    else:
        (tmp_path / "run" / file).unlink()
    with pytest.raises(NeuroFMError, match=r"is damaged or gone|is not a run"):
        Workdir.claim(tmp_path / "run", exp, ["a hash"])
    assert (tmp_path / "run" / "checkpoints").is_dir()
