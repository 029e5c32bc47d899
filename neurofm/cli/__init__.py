"""The command line: each command parses, calls one function and shows its result."""

# Commands register themselves.
import data_pipelines.commands  # noqa: F401
import neurofm.cli.models
import neurofm.cli.scores
import neurofm.cli.training
import neurofm.launch.commands  # noqa: F401
from neurofm.cli.command import cli

__all__ = ["cli"]
