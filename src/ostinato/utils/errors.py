"""The one exception of ours: something the user can fix; and words for what they meant, or what stopped them."""

import difflib
import errno
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what was asked or given. The message says what was wrong, with the value, and what to do
    next; the command line prints it as one line and exits with code 2."""


def nearest(word: str, words: Sequence[str]) -> str:
    """ "did you mean 'X'?" or, where nothing is near, all there is."""
    close = difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(words)}"


def why(error: Exception) -> str:
    """What stopped a write, and what to do about it."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if getattr(error, "errno", None) in full or "No space left" in str(error):
        return "the disk is full: make room, or choose another place"
    reason = getattr(error, "strerror", None) or str(error).strip().rstrip(".")
    return f"{reason}: is the folder writable, with room left?"
