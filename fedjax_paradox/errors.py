"""The one exception type for a person's mistakes; imports nothing, so every room may raise it."""


class InputError(ValueError):
    """Something the person supplied breaks a rule.

    The message names the rule, the offending value and the remedy. The command line prints it and
    exits with code 2; anything else that is raised is a defect of this package.
    """
