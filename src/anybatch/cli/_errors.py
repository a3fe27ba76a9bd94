"""What ends a command before its work: a sentence for the user, and an exit status."""

from __future__ import annotations

ANSWERED = 0
"""Every line has its answer."""
UNANSWERED = 1
"""Some lines have an error, or no end yet."""
USAGE = 2
"""Nothing was done: the command, its input or its environment must be changed first."""


class UsageError(Exception):
    """The command cannot do what it was asked; the message says what to change."""
