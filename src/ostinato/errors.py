"""The one exception of ours: something the user can mend."""


class UserError(Exception):
    """A mistake in what was asked or given. The message says what was wrong, with the value, and what to do
    next; the command line prints it as one line and exits with code 2."""
