"""Errors meant for users, and the notice every answer carries."""

RESEARCH_USE = "Research use only. Not a medical device."


class UserError(Exception):
    """Something the user can mend. The message says what was seen, what was wanted, where, and what to do."""

    exit_code = 1


class UsageError(UserError):
    """The command, configuration or argument itself is wrong."""

    exit_code = 2
