"""The one exception that is shown to a user as a message, without a traceback."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message gives the value that was found, the values that are allowed, the place (file, line
    or config key) and what to do. `main.py` and the `ilias-jax` command print it alone and exit
    with 1.
    """
