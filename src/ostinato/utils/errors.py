"""The one exception of ours: something the user can fix; and how to name what they may have meant."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what was asked or given. The message says what was wrong, with the value, and what to do
    next; the command line prints it as one line and exits with code 2."""


def nearest(word: str, words: Sequence[str]) -> str:
    """ "did you mean 'X'?" or, where nothing is near, all there is."""
    close = difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(words)}"
