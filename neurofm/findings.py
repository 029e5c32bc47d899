"""What `neurofm check` found, as JSON and on a screen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 20  # problems on a screen; JSON has them all


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a path holds.

    Attributes:
      path: what was looked at.
      kind: `sound`, `recordings`, `dataset`, `model`, `weights` or `unknown`.
      facts: name -> value, fit for JSON.
      problems: (where, what).
      next: commands to type.
    """

    path: str
    kind: str
    facts: dict[str, Any]
    problems: tuple[tuple[str, str], ...] = ()
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One flat object: the facts beside path, kind, problems and next."""
        return {
            "path": self.path,
            "kind": self.kind,
            **self.facts,
            "problems": [{"where": a, "what": b} for a, b in self.problems],
            "next": list(self.next),
        }


def render(findings: Findings, console: "Console") -> None:
    """Print the facts, the problems and the commands to type next."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(findings.path)}[/bold]: {findings.kind}")
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in findings.facts.items():
        for line in _lines(value):
            facts.add_row(name.replace("_", " "), escape(line))
            name = ""
    console.print(facts)
    if findings.problems:
        problems = Table("where", "what", box=None, padding=(0, 2, 0, 0))
        for where, what in findings.problems[:_SHOWN]:
            problems.add_row(escape(where), escape(what))
        console.print(problems)
    if (hidden := len(findings.problems) - _SHOWN) > 0:
        console.print(f"and {hidden} more, which --json lists")
    for command in findings.next:
        console.print(f"next: {escape(command)}", soft_wrap=True, highlight=False)


def _lines(value: Any) -> Iterator[str]:
    """A fact in words: a line for each part that has parts of its own."""
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        yield from (f"{name} ({_words(part)})" for name, part in value.items())
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        yield from map(_words, value)
    else:
        yield _words(value)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "") else str(value)
