"""The one error a caller is meant to catch."""


class NeuroFMError(ValueError):
    """A user can mend this: the message says what was given, expected and next.

    The command line prints the message alone and exits 1; every other exception is a
    fault of ours (or of the machine), shown with its traceback and exit code 70.
    """
