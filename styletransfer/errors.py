"""The two ways a run can fail for a reason that its user can mend; the command prints them as one line."""


class StyleTransferError(Exception):
    """An input, a file or the machine doesn't allow the run. The message says what, where, and what to do."""

    exit_code = 1


class UsageError(StyleTransferError, ValueError):
    """An option or argument has a value that can't be meant."""

    exit_code = 2
