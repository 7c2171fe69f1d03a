"""The command line: one file a command or two; `app` has what they share."""

from ostinato.cli.app import main

__all__ = ["main"]
