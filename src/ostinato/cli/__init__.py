"""The command line: a file for each command or two, in the order of `ostinato --help`; `app` has what they share."""

from ostinato.cli import generate, curate, train, evaluate, models  # isort: skip  # their order is that of the help
from ostinato.cli.app import app, main

__all__ = ["app", "curate", "evaluate", "generate", "main", "models", "train"]
