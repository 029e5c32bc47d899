"""What every command has in common: options, errors in one sentence, results, exits.

Exit codes: 0 done, 1 a user's error (one sentence), 42 saved and preempted, 130 Ctrl-C
(a run is saved), 70 a fault worth a report or a retry.
"""

import errno
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from neurofm import __version__
from neurofm.errors import NeuroFMError
from neurofm.run.stop import Terminated, terminable
from neurofm.stores import is_remote, place

DONE, USER_ERROR, PREEMPTED, FAULT, INTERRUPTED = 0, 1, 42, 70, 130
EXIT_CODES = {
    "preempted": PREEMPTED,
    "interrupted": INTERRUPTED,
    "collapsed": USER_ERROR,
}

# What the place that was named is to blame for, and not this program.
PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
PLACES += (errno.EISDIR, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP)


class PathOrAddress(click.ParamType):
    """A path; the address of a store too, unless it is to be local."""

    name = "path"

    def __init__(self, local: bool = False):
        self.local = local

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if self.local and is_remote(value):
            self.fail(
                f"{value} is in a store, and this has to be on a local disk: give a "
                "local path, and copy it from or to the store",
                param,
                ctx,
            )
        try:
            return place(value)
        except NeuroFMError as error:
            self.fail(str(error), param, ctx)


PLACE, LOCAL = PathOrAddress(), PathOrAddress(local=True)


Result = tuple[dict[str, Any], str]  # the JSON object, and the words for a person


class Group(click.Group):
    """A click group whose usage errors exit 1, as all errors of a user do."""

    def main(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        try:
            return super().main(args, *more, standalone_mode=False, **kwargs)
        except click.ClickException as error:
            if "--json" in (sys.argv if args is None else args):
                click.echo(json.dumps({"error": error.format_message()}))
            error.show()
            sys.exit(USER_ERROR)
        except click.Abort:
            sys.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Train, fine-tune and use foundation models of brain and sound signals."""


def command(
    name: str, group: click.Group = cli
) -> Callable[[Callable[..., Any]], click.Command]:
    """Register a command with `--json` and `--debug`, and map what it raises."""

    def register(function: Callable[..., Any]) -> click.Command:
        @group.command(name, help=function.__doc__)
        @click.option("--json", "as_json", is_flag=True, help="One JSON object.")
        @click.option("--debug", is_flag=True, help="Show tracebacks.")
        @functools.wraps(function)
        def run(as_json: bool, debug: bool, **arguments: Any) -> None:
            logging.basicConfig(
                level=logging.DEBUG if debug else logging.INFO,
                format="%(message)s",
                stream=sys.stderr,
                force=True,
            )
            for library in ("absl", "jax", "gcsfs"):
                logging.getLogger(library).setLevel(logging.WARNING)
            try:
                with (
                    result_alone_on_stdout() as stdout,
                    terminable(lambda: end_now(as_json, stdout)),
                ):
                    result, words, *code = function(**arguments)
            except KeyboardInterrupt:
                tell("interrupted", as_json)
                sys.exit(INTERRUPTED)
            except Terminated:
                end_now(as_json, 1)
            except Exception as error:
                if sentence := users_mistake(error):
                    if debug:
                        raise
                    if as_json:
                        click.echo(json.dumps({"error": sentence}))
                    click.echo(f"error: {sentence}", err=True)
                    sys.exit(USER_ERROR)
                if as_json:
                    click.echo(
                        json.dumps({"error": f"{type(error).__name__}: {error}"})
                    )
                logging.exception("neurofm met a fault of its own:")
                sys.exit(FAULT)
            click.echo(json.dumps(result) if as_json else words)
            sys.exit(code[0] if code else DONE)

        return run

    return register


def tell(what: str, as_json: bool) -> None:
    """Say that a command was stopped."""
    words = f"{what}; the same command goes on from here"
    if as_json:
        click.echo(json.dumps({"error": words}))
    click.echo(words, err=True)


def end_now(as_json: bool, stdout: int) -> NoReturn:
    """End for SIGTERM whatever other threads do, telling so on the given stdout."""
    try:
        os.dup2(stdout, 1)
        tell("stopped", as_json)
        sys.stdout.flush()
    finally:
        os._exit(PREEMPTED)


@contextmanager
def result_alone_on_stdout() -> Iterator[int]:
    """While entered, whatever is written to stdout, by C code too, goes to stderr.

    Gives the file descriptor of the real one.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def users_mistake(error: Exception) -> str | None:
    """What to tell a user who can mend it, or None for a fault of ours."""
    if isinstance(error, NeuroFMError):
        return str(error)
    full = os.strerror(errno.ENOSPC)
    if isinstance(error, OSError) and error.errno in PLACES:
        where = error.filename2 or error.filename
        what = f"{where}: {error.strerror}" if where else error.strerror
    else:  # libraries wrap it into errors of their own
        what = full if full in str(error) else None
    if what:
        return (
            f"{what}: give a place that can be used and has "
            "room, and run the same command again"
        )
    return None


def table(rows: dict[str, Any]) -> str:
    """Two aligned columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def score_rows(scores: dict[str, Any]) -> str:
    """The score table of a report, as lines."""
    from neurofm.report.tables import score_tables

    return "\n".join(
        f"{found['caption']}\n{table({k: v[0] for k, v in found['rows'].items()})}"
        for found in score_tables([scores])
    )


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The value of an option that takes several."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise NeuroFMError(
            f"--{option} {text} is no list of numbers; write it as 50,60"
        ) from error


def counter(what: str) -> Callable[..., None]:
    """Progress on stderr, one line rewritten on a terminal, silent elsewhere."""

    def show(done: int, total: int, *_: Any) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            click.echo(f"\r{what}: {done} of {total}{end}", nl=False, err=True)

    return show
