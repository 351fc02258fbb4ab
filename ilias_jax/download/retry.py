"""How long to go on after failures: counts, waits, and the kinds of failure."""

import dataclasses
import random
import threading
from collections.abc import Callable

from ilias_jax.errors import UserError

Say = Callable[[str], None]


class TemporaryError(Exception):
    """It may work next time.

    Attributes:
        wait: seconds that the server asked for, 0 to go on at once, None for the usual back-off.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class FinalError(Exception):
    """This file cannot be had; others may."""


class GivenUpError(FinalError):
    """A temporary failure that came too often."""


class StoppedError(Exception):
    """The run is being stopped."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How often and how long to wait; times in seconds.

    Attributes:
        retries: failures in a row, without a new byte between, that are tried again.
        first_wait: before the first retry; doubles from one to the next.
        longest_wait: bound of that.
        longest_retry_after: bound of what a server may ask for.
        connect_timeout: for a connection to be made.
        read_timeout: for the next bytes to arrive.
    """

    retries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 900.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.retries < 0:
            raise UserError(f"retries {self.retries} must be 0 or more")
        for name in ("connect_timeout", "read_timeout"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} {getattr(self, name)} must be more than 0 seconds")


class Attempts:
    """Failures in a row at one thing; the caller says when there was progress."""

    def __init__(self, name: str, patience: Patience, stop: threading.Event, say: Say) -> None:
        self._name, self._patience, self._stop, self._say = name, patience, stop, say
        self._failures = 0

    def progressed(self) -> None:
        """Forgets earlier failures."""
        self._failures = 0

    def failed(self, error: TemporaryError) -> None:
        """Waits before the next attempt.

        Raises:
            GivenUpError: that was the last one.
            StoppedError: the run was stopped while waiting.
        """
        if self._stop.is_set():
            raise StoppedError
        self._failures += 1
        retries = self._patience.retries
        if self._failures > retries:
            times = "once" if self._failures == 1 else f"{self._failures} times in a row"
            raise GivenUpError(f"{error}; given up after it failed {times}") from error
        wait = self._wait(error)
        when = f"again in {wait:,.0f} s" if wait >= 0.5 else "again now"
        self._say(f"{self._name}: {error}; {when} (retry {self._failures} of {retries})")
        if self._stop.wait(wait):
            raise StoppedError

    def _wait(self, error: TemporaryError) -> float:
        patience = self._patience
        if error.wait is not None:
            return min(error.wait, patience.longest_retry_after)
        full = min(patience.longest_wait, patience.first_wait * 2.0 ** (self._failures - 1))
        # Jitter, so that the files of one run do not all come back at the same moment.
        return full * random.uniform(0.5, 1.0)
