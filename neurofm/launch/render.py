"""Files for schedulers that supervise jobs by themselves: GKE JobSet and SLURM."""

import json
import shlex

from neurofm.launch.job import Gke, Job, Slurm


def _quoted(text: str) -> str:
    """A JSON string, which YAML reads as the same text."""
    return json.dumps(text)


def render(job: Job) -> str:
    """The manifest of a job on GKE, or the batch script of one on SLURM.

    Words of the command arrive unchanged: Kubernetes expands `$(NAME)` in them and
    reads `$$` as `$`, so dollars are doubled; the batch script is quoted for bash.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = {Gke: "jobset.yaml.j2", Slurm: "train.slurm.j2"}
    pages = Environment(
        loader=PackageLoader("neurofm.launch", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # nothing here is HTML
    )
    pages.filters["quoted"] = _quoted
    page = pages.get_template(templates[type(job.where)])
    slice_ = job.where.slice if isinstance(job.where, Gke) else None
    words = shlex.join(job.command)
    return page.render(job=job, where=job.where, slice=slice_, words=words)
