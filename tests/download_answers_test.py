"""Headers and errors in words."""

import datetime
import email.utils

import pytest
import requests

from ilias_jax.download import answers
from ilias_jax.download.retry import FinalError, TemporaryError


def test_retry_after_in_both_forms():
    class Answer:
        def __init__(self, text):
            self.headers = {"Retry-After": text} if text else {}

    now = datetime.datetime.now(datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    assert answers.retry_after(Answer("7")) == 7.0
    assert 80 < answers.retry_after(Answer(later)) <= 90
    assert answers.retry_after(Answer("Wed, 01 Jan 2020 00:00:00 GMT")) == 0.0
    assert answers.retry_after(Answer("soon")) is None
    assert answers.retry_after(Answer("")) is None


def test_the_innermost_cause_is_the_reason():
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as inner:
            raise RuntimeError("HTTPConnectionPool(...)") from inner
    except RuntimeError as outer:
        assert answers.reason_of(outer) == "Connection refused"
    assert answers.reason_of(ValueError("so it is")) == "so it is"
    assert answers.reason_of(TimeoutError()) == "TimeoutError"


def test_a_bad_certificate_is_final_and_a_broken_handshake_is_not():
    bad = requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    failure = answers.failure_of(bad, "https://host/x")
    assert isinstance(failure, FinalError) and "certificate of host" in str(failure)
    broken = requests.exceptions.SSLError("EOF occurred in violation of protocol")
    assert isinstance(answers.failure_of(broken, "https://host/x"), TemporaryError)
    assert isinstance(answers.failure_of(requests.ReadTimeout(), "https://h"), TemporaryError)
    assert isinstance(answers.failure_of(requests.TooManyRedirects(), "https://h"), FinalError)


@pytest.mark.parametrize(
    ("text", "length"), [("12", 12), ("0", 0), ("", None), ("-1", None), ("1e3", None), ("²", None)]
)
def test_lengths(text, length):
    response = requests.Response()
    response.headers["Content-Length"] = text
    assert answers.content_length(response) == length
