"""Plans as golden transcripts, jobs that are refused, the samples of the guide."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from golden.compare import assert_golden
from hypothesis import given
from hypothesis import strategies as st

from neurofm.errors import NeuroFMError
from neurofm.launch import local, tpu_vm
from neurofm.launch.actions import Run, transcript
from neurofm.launch.code import scripts
from neurofm.launch.job import Gke, Job, Local, Slurm, TpuVM
from neurofm.launch.render import render

WORDS = ("neurofm", "pretrain", "wavjepa/base", "--workdir", "gs://bucket/base")
SHA, OWNER, HOME = "5" * 16, "0123456789ab", "/home/me/.neurofm/launch/base"


def vm(accelerator="v5litepod-16", **options):
    given = {"zone": "europe-west4-b", "project": "my-project"} | options
    return TpuVM(accelerator=accelerator, **given)


def job(where, *more, **options):
    words = (*WORDS, "data.path=gs://bucket/data", *more)
    return Job(**{"name": "base", "where": where, "command": words} | options)


JOBS = {
    "spot": job(vm()),
    "slices": job(
        vm(slices=2, provisioning="reserved", network="fast", internal_ips=True),
        "task.note=it's $5",
        env=("WANDB_API_KEY",),
    ),
    "topology": job(vm("v4:4x4x16", zone="us-central2-b", provisioning="on-demand")),
    "local": job(Local(processes=2)),
}


def plan(made):
    if isinstance(made.where, Local):
        return local.plan(made, HOME, "/home/me/neurofm")
    return tpu_vm.plan(made, OWNER, "/home/me/neurofm", SHA, HOME)


@pytest.mark.parametrize("name", JOBS)
def test_a_plan_is_what_it_was(name):
    text = transcript(plan(JOBS[name])).replace(str(scripts()), "/neurofm/tpu")
    assert_golden(f"launch/{name}.txt", text + "\n")


@pytest.mark.parametrize("name", JOBS)
def test_a_pasted_line_runs_the_words_of_its_action(name):
    for action in plan(JOBS[name]):
        if isinstance(action, Run):
            assert tuple(shlex.split(action.shell())) == action.argv


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_the_words_of_a_command_are_one_word_of_ssh(words):
    made = Job(name="base", where=vm("v5litepod-1"), command=("program", *words))
    (action,) = tpu_vm.start(made, 3, SHA, HOME)
    assert isinstance(action, Run)
    (sent,) = [w for w in action.argv if w.startswith("--command=")]
    told = shlex.split(sent.removeprefix("--command="))
    assert told[2:] == ["start", "base", "3", SHA, "program", *words]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spot", "slices", "topology"])
def test_the_installed_gcloud_knows_every_flag(name):
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed here")
    for action in plan(JOBS[name]):
        if isinstance(action, Run) and action.argv[0] == "gcloud":
            told = subprocess.run(
                [*action.argv[:5], "--help"], capture_output=True, text=True
            )
            plain = told.stdout.replace("\x1b[m", "").replace("\x1b[1m", "")
            for word in action.argv[5:]:
                if word.startswith("--"):
                    flag = word.partition("=")[0]
                    assert flag in plain, (action.argv[:5], flag)


# ---- jobs that are refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: job(vm(), name="Base"), "'Base' cannot name a job: give a lower-case"),
        (lambda: job(vm(), name="a" * 56), "cannot name a job"),
        (lambda: job(vm(), name="base-"), "cannot name a job"),
        (lambda: job(vm(), command=()), "there is no command: give it after `--`"),
        (lambda: job(vm(), command=("a\0b",)), "a NUL byte cannot be part"),
        (lambda: job(vm(), env=("A=1",)), "--env 'A=1' is not the name of a variable"),
        (lambda: vm("v5e"), "'v5e' is not a TPU slice"),
        (lambda: vm("tpu7x:2x2x1"), "the TPU API has no tpu7x, which runs on GKE"),
        (lambda: vm("v5p:4x4x16"), "gives 256 v5p chips as 4x8x8 only: give v5p-512"),
        (lambda: vm(zone="europe-west4"), "'europe-west4' is not a zone"),
        (lambda: vm(project="My Project"), "is not a project id"),
        (lambda: vm(slices=0), "--slices 0: give 1 or more"),
        (lambda: Local(processes=0), "local:0: give local:1 or more"),
        (lambda: Local(port=0), "port 0: give a number from 1 to 65535"),
        (lambda: Slurm(nodes=0), "0 nodes with 1 GPUs each"),
        (lambda: Slurm(time="a day"), "'a day' is not a time of SLURM"),
        (
            lambda: job(vm(), command=("neurofm", "pretrain", "x", "--workdir=run")),
            "--workdir run is on the disk of a TPU VM, which is gone after",
        ),
    ],
)
def test_a_job_that_cannot_be_is_refused_in_a_sentence(make, words):
    with pytest.raises(NeuroFMError) as refused:
        make()
    assert words in str(refused.value)


@pytest.mark.parametrize("made", JOBS.values(), ids=JOBS)
def test_a_job_is_kept_and_found_again(made):
    assert Job.from_json(made.to_json()) == made


# ---- the samples of the guide --------------------------------------------------------


def test_the_samples_in_the_guide_are_what_render_writes():
    where = Gke(accelerator="v5e:4x4", image="REGISTRY/neurofm:TAG", slices=2)
    assert_golden("../../tpu/jobset.yaml", render(job(where)))
    where = Slurm(nodes=2, gpus_per_node=8)
    command = ("neurofm", "pretrain", "wavjepa/base", "--workdir", "/scratch/base")
    made = Job(name="base", where=where, command=(*command, "data.path=/scratch/data"))
    assert_golden("../../tpu/train.slurm", render(made))


@pytest.mark.parametrize("name", ["setup_vm.sh", "run_worker.sh", "train.slurm"])
def test_the_shell_scripts_are_clean(name):
    path = Path(__file__).parents[1] / "tpu" / name
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)
