"""The documents' own code runs, and the files they name are there."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from neurofm import config, model, registry
from neurofm.cli import cli
from neurofm.config import Data, Eval, Experiment, Train
from neurofm.data.layout import DatasetInfo
from neurofm.data.writer import Recording, write_dataset
from neurofm.train import pretrain

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_a_system_in_one_file_trains_resumes_and_reads(tmp_path, monkeypatch):
    source = tmp_path / "half.py"
    source.write_text(blocks(ROOT / "docs/your_system.md", "python")[0])
    spec = importlib.util.spec_from_file_location("half", source)
    assert spec is not None
    assert spec.loader is not None
    half = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "half", half)
    spec.loader.exec_module(half)
    monkeypatch.setitem(registry.BUILT_IN, "half", "half:Half")

    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=8000.0, unit="full_scale", ch_names=("mono",)
    )
    loud = rng.uniform(0.01, 0.3, (12, 1))
    waves = (loud * rng.standard_normal((12, 4000))).astype(np.float32).clip(-1, 1)
    write_dataset(
        tmp_path / "data",
        info,
        [
            Recording(item=f"clip_{i}", samples=wave[None], meta={"split": "train"})
            for i, wave in enumerate(waves)
        ],
    )

    def experiment(steps):
        return Experiment(
            task=half.Half(),
            data=Data(path=str(tmp_path / "data")),
            train=Train(steps=steps, batch_size=4, log_every=1, checkpoint_every=2),
            eval=Eval(every=0),
        ).resolved()

    outcome = pretrain(experiment(6), tmp_path / "run")
    assert outcome.status == "done"
    loaded = model.load(tmp_path / "run")
    reading = loaded.embed(waves[0], sfreq=8000)
    assert reading.values["last"].shape[1] == 1
    kernel = loaded.variables["params"]["guess"]["kernel"]
    again = pretrain(experiment(6), tmp_path / "run")
    assert again.step == 6
    same = model.load(tmp_path / "run").variables["params"]["guess"]["kernel"]
    np.testing.assert_array_equal(kernel, same)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for link in links:
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_named_in_code_font_exist(page):
    named = re.findall(
        r"`((?:neurofm|configs|tests|docs)/[\w/]+\.py)`", page.read_text()
    )
    for name in named:
        assert (ROOT / name).is_file(), name


def commands(page):
    """Every `neurofm` command of the shell blocks of a page, in words."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["neurofm"]:
                yield words[1:]


def test_the_commands_of_the_recipes_are_commands():
    found = list(commands(ROOT / "docs/finetune.md"))
    told = {words[0] for words in found}
    assert {"prepare", "finetune", "evaluate", "embed", "export"} <= told
    root = click.Context(cli, **cli.context_settings)  # a command keeps its help option
    for name, *words in found:
        command = cli.get_command(root, name)
        assert command is not None, name
        context = command.make_context(name, list(words), parent=root)
        if name == "finetune":
            overrides = tuple(context.params["overrides"])
            exp = config.load(str(context.params["config"]), overrides)
            assert exp.task.name == "finetune"
            assert exp.data.path
