"""Is everything here that a launch needs? It looks only, and shows no credential."""

import shutil
import subprocess
from dataclasses import dataclass

from neurofm.launch.actions import Run


@dataclass(frozen=True)
class Check:
    """One question, its answer, and what to do where it is not well.

    Attributes:
      ok: None where it could not be asked, or does not matter for every job.
    """

    what: str
    ok: bool | None
    answer: str
    mend: str = ""


PROGRAMS = {
    "git": ("packs the exact code", True),
    "gcloud": ("TPU VMs", True),
    "kubectl": ("JobSets on GKE", False),
    "sbatch": ("SLURM clusters", False),
}


def questions(zone: str | None, project: str | None) -> list[Run]:
    """What is asked of gcloud; none of it changes anything."""
    asked = [
        Run("a project is set", ("gcloud", "config", "get-value", "project")),
        Run(
            "an account is signed in",
            (
                "gcloud",
                "auth",
                "list",
                "--filter=status:ACTIVE",
                "--format=value(status)",
            ),
        ),
    ]
    if project:
        service = "--filter=config.name=tpu.googleapis.com"
        asked += [
            Run(
                "the TPU API is enabled",
                (
                    *("gcloud", "services", "list", "--enabled", service),
                    *(f"--project={project}", "--format=value(config.name)"),
                ),
            ),
            Run(
                "there is TPU quota",
                (
                    *("gcloud", "beta", "quotas", "info", "list"),
                    *("--service=tpu.googleapis.com", f"--project={project}"),
                    "--format=value(quotaId,dimensionsInfos[].details.value)",
                ),
            ),
        ]
    if project and zone:
        asked.append(
            Run(
                f"{zone} offers TPUs",
                (
                    *("gcloud", "compute", "tpus", "accelerator-types", "list"),
                    *(f"--zone={zone}", f"--project={project}", "--format=value(type)"),
                ),
            )
        )
    return asked


MEND = {
    "a project is set": "gcloud config set project PROJECT",
    "an account is signed in": "gcloud auth login",
    "the TPU API is enabled": "gcloud services enable tpu.googleapis.com",
    "there is TPU quota": "ask for it: see tpu/spot_quota.md",
}


def doctor(zone: str | None = None, project: str | None = None) -> list[Check]:
    """Look at programs, account, project, API and quota."""
    found = []
    for name, (use, needed) in PROGRAMS.items():
        there = shutil.which(name) is not None
        ok = there or (False if needed else None)
        answer = "installed" if there else "not installed"
        mend = "" if there else f"install it for {use}"
        found.append(Check(f"{name} ({use})", ok, answer, mend))
    if shutil.which("gcloud") is None:
        return found
    for run in questions(zone, project):
        done = subprocess.run(
            [*run.argv, "--quiet"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        ok = done.returncode == 0 and bool(lines) and lines != ["(unset)"]
        if run.why in ("an account is signed in", "the TPU API is enabled"):
            answer = "yes" if ok else "no"
        else:
            answer = ", ".join(lines[:8]) + (", ..." if len(lines) > 8 else "")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            answer = said[0] if said else f"gcloud ended with {done.returncode}"
        mend = "" if ok else MEND.get(run.why, "choose another zone")
        found.append(Check(run.why, ok, answer or "nothing", mend))
    return found
