"""What a plan is made of, and how it reads as shell that can be pasted."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A program and its arguments.

    Attributes:
      why: what it is for, in a few words.
      argv: program and arguments.
    """

    why: str
    argv: tuple[str, ...]

    def shell(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Pack:
    """Write the files of a tree, and the worker scripts, into one archive."""

    why: str
    root: str
    out: str

    def shell(self) -> str:
        return shlex.join(["neurofm", "launch", "pack", self.root, "--out", self.out])


@dataclass(frozen=True)
class Wait:
    """Look again until something is so."""

    why: str
    seconds: float
    look: tuple[str, ...]
    until: str

    def shell(self) -> str:
        look = shlex.join(self.look)
        return f"until {look} | grep -q {self.until}; do sleep {self.seconds:g}; done"


Action = Run | Pack | Wait


def transcript(actions: list[Action]) -> str:
    """Numbered, each with its reason as a comment and the line to paste."""
    return "\n".join(
        f"# {i}. {action.why}\n{action.shell()}" for i, action in enumerate(actions, 1)
    )
