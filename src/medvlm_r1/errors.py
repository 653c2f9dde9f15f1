"""Errors for users, and the research-use notice."""

RESEARCH_USE = "Research use only. Not a medical device."


class UserError(Exception):
    """An error that the user can fix. The message has what was seen, what was expected, where, and what to do."""

    exit_code = 1


class UsageError(UserError):
    """A wrong command, configuration or argument."""

    exit_code = 2
