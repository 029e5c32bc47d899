"""`neurofm launch ...`: what would be done, and on `--yes` doing it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from neurofm.cli.command import cli, command, table
from neurofm.errors import NeuroFMError


@cli.group("launch")
def launch() -> None:
    """Start a command on TPU slices or processes here, and keep it running.

    `plan` and `up` show the commands that would be run, numbered, to read or to paste;
    `up --yes` runs them, watches, and starts again what was preempted.
    """


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """NAME, where, and the command after `--`."""
    for option in reversed(
        [
            click.argument("name"),
            click.option("--on", "place", help="local:N, v5e:4x4, v5litepod-16, ..."),
            click.option("--zone", help="Such as europe-west4-b."),
            click.option("--project", help="Id of the Cloud project."),
            click.option("--slices", type=int, default=1, show_default=True),
            click.option("--spot", "provisioning", flag_value="spot", default=True),
            click.option("--reserved", "provisioning", flag_value="reserved"),
            click.option("--on-demand", "provisioning", flag_value="on-demand"),
            click.option("--runtime", help="Software version of the VMs."),
            click.option("--network"),
            click.option("--subnetwork"),
            click.option("--service-account", help="Whose rights the VMs have."),
            click.option("--internal-ips", is_flag=True, help="No external addresses."),
            click.option("--port", type=int, default=8476, help="Of local processes."),
            click.option("--env", multiple=True, help="Name of a variable to hand on."),
            click.option(
                "--code",
                type=click.Path(path_type=Path),
                default=".",
                help="Folder of the code, sent or run in; default this one.",
            ),
            click.argument("words", nargs=-1, type=click.UNPROCESSED),
        ]
    ):
        function = option(function)
    return function


def _job(name: str, place: str | None, words: tuple[str, ...], **given: Any):
    from neurofm.launch.job import Job, Local, TpuVM

    if place is None:
        raise NeuroFMError(
            "--on is not given: say where to run, such as local:2 or v5litepod-16"
        )
    if place.partition(":")[0] == "local":
        number = place.partition(":")[2] or "1"
        if not number.isdigit():
            raise NeuroFMError(f"--on {place}: give local:N for N processes here")
        where = Local(processes=int(number), port=given["port"])
    else:
        for option in ("zone", "project"):
            if not given[option]:
                raise NeuroFMError(
                    f"--{option} is not given, and TPU VMs are made in one: give "
                    f"--{option} {option.upper()}"
                )
        own = {k: v for k, v in given.items() if k not in ("port", "env")}
        where = TpuVM(accelerator=place, **own)
    return Job(name=name, where=where, command=words, env=given["env"])


def _record(code: Path, **given: Any):
    from neurofm.launch.code import tree
    from neurofm.launch.job import Local
    from neurofm.launch.record import Record, owner

    job = _job(**given)
    if isinstance(job.where, Local):
        return Record(job, owner(), (str(code.resolve()), "-"))
    made = tree(code)
    return Record(job, owner(), (str(made.root), made.sha256))


def _plan(record):
    from neurofm.launch import local, tpu_vm
    from neurofm.launch.job import Local

    folder, (root, sha256) = str(record.folder), record.code
    if isinstance(record.job.where, Local):
        return local.plan(record.job, folder, root)
    return tpu_vm.plan(record.job, record.owner, root, sha256, folder)


def _shown(actions: list[Any], end: str = "") -> tuple[dict[str, Any], str]:
    from neurofm.launch.actions import transcript

    told = [{"why": action.why, "shell": action.shell()} for action in actions]
    return {"actions": told}, f"{transcript(actions)}\n\n{end}".strip()


@command("plan", launch)
@job_options
def plan_command(**given: Any):
    """Show what a launch would run, and run nothing."""
    return _shown(_plan(_record(**given)))


@command("up", launch)
@job_options
@click.option("--yes", is_flag=True, help="Do it; without, the commands are shown.")
@click.option("--no-watch", is_flag=True, help="Return once the workers have started.")
@click.option("--keep", is_flag=True, help="Leave the chips when the job has ended.")
def up_command(yes: bool, no_watch: bool, keep: bool, **given: Any):
    """Launch a job and keep it running; of one that runs, go on watching.

    Give NAME alone to go on with a job that was launched before. The exit code is that
    of the job.
    """
    from neurofm.launch import life

    name, words = given["name"], given["words"]
    record = life.known(name) if not words else _record(**given)
    if not yes:
        going = life.going(record)
        actions = [] if going else _plan(record)
        end = going or "Nothing was done: add --yes to do it."
        return _shown(actions, f"# {end}")
    state = life.up(record, lambda line: click.echo(line, err=True), no_watch, keep)
    result = {"name": name, "status": state.sentence, "attempt": state.attempt}
    shown = f"{name}: {state.sentence}"
    return result, shown, 0 if state.code is None else state.code


@command("status", launch)
@click.argument("name")
def status_command(name: str):
    """Look at a job once: its chips, its processes, the step."""
    from neurofm.launch import life

    found = life.status(name)
    rows = {k: v for k, v in found.items() if k != "workers"}
    for i, worker in enumerate(found["workers"]):
        facts = {k: v for k, v in worker.items() if k != "tree" and v is not None}
        told = ", ".join(f"{k} {v}" for k, v in facts.items())
        rows[f"worker {i}"] = told.removeprefix("state ")
    return found, table(rows)


@command("logs", launch)
@click.argument("name")
@click.option("--worker", type=int, default=0, show_default=True)
@click.option("--lines", type=int, default=50, show_default=True)
def logs_command(name: str, worker: int, lines: int):
    """Show the end of a worker's log."""
    from neurofm.launch import life

    text = life.logs(name, worker, lines)
    return {"name": name, "worker": worker, "log": text}, text


@command("stop", launch)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do it; without, the commands are shown.")
def stop_command(name: str, yes: bool):
    """Ask a job to save and end; `up` goes on with it later."""
    from neurofm.launch import life

    actions = life.stop(name, act=yes)
    end = "" if yes else "# Nothing was done: add --yes to do it."
    return _shown(actions, end)


@command("down", launch)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do it; without, the commands are shown.")
def down_command(name: str, yes: bool):
    """Give back what a job holds, if this job made it, and forget the job."""
    from neurofm.launch import life

    actions = life.down(name, act=yes)
    end = "" if yes else "# Nothing was done: add --yes to do it."
    return _shown(actions, end)


@command("doctor", launch)
@click.option("--zone")
@click.option("--project")
def doctor_command(zone: str | None, project: str | None):
    """Say whether programs, account, project, API and quota are there."""
    from dataclasses import asdict

    from neurofm.launch.doctor import doctor

    checks = doctor(zone, project)
    marks = {True: "ok", False: "missing", None: "-"}
    rows = {
        check.what: f"{marks[check.ok]:8}{check.answer}"
        + (f"; {check.mend}" if check.mend else "")
        for check in checks
    }
    bad = any(check.ok is False for check in checks)
    return {"checks": [asdict(c) for c in checks]}, table(rows), int(bad)


@command("render", launch)
@click.argument("name")
@click.option("--to", "target", type=click.Choice(["jobset", "slurm"]), required=True)
@click.option("--on", "place", help="v5e:4x4, v5litepod-16, ... (jobset)")
@click.option("--image", help="Container with neurofm in it. (jobset)")
@click.option("--slices", type=int, default=1, show_default=True)
@click.option("--spot/--no-spot", default=True, show_default=True)
@click.option("--nodes", type=int, default=1, show_default=True, help="(slurm)")
@click.option("--gpus-per-node", type=int, default=1, show_default=True)
@click.option("--time", default="24:00:00", show_default=True, help="(slurm)")
@click.option("--partition", help="(slurm)")
@click.option("--env", multiple=True, help="Name of a variable to hand on.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def render_command(
    name: str,
    target: str,
    place: str | None,
    image: str | None,
    slices: int,
    spot: bool,
    nodes: int,
    gpus_per_node: int,
    time: str,
    partition: str | None,
    env: tuple[str, ...],
    words: tuple[str, ...],
):
    """Write a job as a GKE JobSet or a SLURM batch script, to stdout."""
    from neurofm.launch.job import Gke, Job, Slurm
    from neurofm.launch.render import render

    if target == "slurm":
        where = Slurm(
            nodes=nodes, gpus_per_node=gpus_per_node, time=time, partition=partition
        )
    elif place is None or image is None:
        raise NeuroFMError(
            "a JobSet needs a slice and a container: give --on, such as v5e:4x4, and "
            "--image"
        )
    else:
        where = Gke(accelerator=place, image=image, slices=slices, spot=spot)
    text = render(Job(name=name, where=where, command=words, env=env))
    return {"name": name, "text": text}, text.rstrip("\n")


@command("pack", launch)
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def pack_command(root: Path, out: Path):
    """Write the archive of the code that a launch sends; its name ends in the hash."""
    from neurofm.launch import code

    made = code.tree(root)
    code.pack(made, out)
    result = {"out": str(out), "sha256": made.sha256, "files": len(made.files)}
    return result, f"{out}: {len(made.files)} files, {made.sha256}"
