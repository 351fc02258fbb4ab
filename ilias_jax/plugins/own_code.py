"""Exceptions of the user's own code: a message of ours above the traceback that is theirs."""

import contextlib
import pathlib
import traceback
import types
from collections.abc import Iterator

import jax

from ilias_jax.errors import UserError

_NOT_THEIRS = tuple(str(pathlib.Path(file).parent) for file in (jax.__file__, __file__))


@contextlib.contextmanager
def own_code(what: str) -> Iterator[None]:
    """Runs code that is not ours.

    Args:
        what: begins the message: what was done with the code, and where that is configured.

    Raises:
        UserError: the code raised an exception. The message ends with its traceback, from the first
            line that is neither ours nor JAX's; a `UserError` of the code passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever their code raises; it is shown whole
        lines = traceback.format_exception(type(error), error, _from_their_code(error))
        raise UserError(f"{what}:\n{''.join(lines).rstrip()}") from error


def _from_their_code(error: Exception) -> types.TracebackType | None:
    """The traceback without the frames that lead to their code; whole if it never got there."""
    step = error.__traceback__
    while step is not None and _is_on_the_way(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    return step or error.__traceback__


def _is_on_the_way(file: str) -> bool:
    return file.startswith((*_NOT_THEIRS, "<frozen importlib")) or file == contextlib.__file__
