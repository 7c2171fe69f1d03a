"""The command line: a file for each command or two, in the order of `ostinato --help`; `app` has what they share."""

# The order of the help is that of these imports.
# isort: off
from ostinato.cli import generate, curate, train, evaluate, studio, listen, models, export
from ostinato.cli.app import app, main

# isort: on

__all__ = ["app", "curate", "evaluate", "export", "generate", "listen", "main", "models", "studio", "train"]
