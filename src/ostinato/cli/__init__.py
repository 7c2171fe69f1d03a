"""The command line: a file for each command or two, in the order of `ostinato --help`; `app` has what they share."""

from ostinato.cli import generate, train, evaluate, studio, listen, models  # isort: skip  # their order is that of the help
from ostinato.cli.app import app, main

__all__ = ["app", "evaluate", "generate", "listen", "main", "models", "studio", "train"]
