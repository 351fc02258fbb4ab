"""What an answer of a server means, and what it means that none came."""

import datetime
import email.utils
import urllib.parse

import requests
import urllib3

from ilias_jax.download.retry import FinalError, TemporaryError

_TEMPORARY_STATUSES = (408, 425, 429)


def reason_of(error: BaseException) -> str:
    """The innermost cause in words: `Connection refused`, not the stack of wrappers."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return "closed before the end"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def failure_of(error: requests.RequestException, url: str) -> Exception:
    """What to make of a request that got no answer."""
    host = urllib.parse.urlsplit(url).netloc
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY" in str(error):
        return FinalError(f"the certificate of {host} is not trusted ({reason_of(error)})")
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return TemporaryError(f"no answer from {host} ({reason_of(error)})")
    return FinalError(f"{url} cannot be asked for ({error})")


def retry_after(response: requests.Response) -> float | None:
    """Seconds that a server asks to wait, from either form of the header; None without one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.datetime.now(moment.tzinfo)).total_seconds())


def check_status(response: requests.Response) -> None:
    """Passes statuses 200, 206 and 416.

    Raises:
        TemporaryError: for 408, 425, 429 and 5xx.
        FinalError: for any other.
    """
    status, url = response.status_code, response.url
    if status in (200, 206, 416):
        return
    if status >= 500 or status in _TEMPORARY_STATUSES:
        raise TemporaryError(f"the server answered {status}", retry_after(response))
    what = {401: "wants a login for", 403: "refuses", 404: "does not have", 410: "no longer has"}
    raise FinalError(f"the server {what.get(status, 'will not send')} {url} ({status})")


def content_length(response: requests.Response) -> int | None:
    """Bytes of the body as the server says, or None."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() else None
