"""Progress lines: counts, rates and how often they come."""

import io
import sys
import threading

import pytest

from ilias_jax import progress


class Clock:
    """A clock that stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def test_lines_come_now_and_then_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.track("embed positive", 4000) as advance:
        advance(500)
        clock.now += 4
        advance(500)
        assert capsys.readouterr().out == ""  # too soon
        clock.now += 6
        advance(500)
        expected = "embed positive: 1,500 of 4,000, 150.0/s, 17 s left\n"
        assert capsys.readouterr().out == expected
        clock.now += 9
        advance(500)
        assert capsys.readouterr().out == ""
        clock.now += 21
        advance(2000)
    expected = "embed positive: 4,000 of 4,000 in 40.0 s, 100.0/s\n"
    assert capsys.readouterr().out == expected


def test_nothing_to_do_divides_by_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    del clock
    with progress.track("embed", 0):
        pass
    assert capsys.readouterr().out == "embed: 0 of 0 in 0.0 s, 0.0/s\n"


def test_a_stage_that_fails_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), progress.track("embed", 10) as advance:
        advance(3)
        raise ZeroDivisionError
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout", terminal)
    with progress.track("embed distractor", 30) as advance:
        advance(10)
        advance(20)
    assert "embed distractor" in terminal.getvalue() and "30/30" in terminal.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.94, "1,000 B"),
        (1000, "1.0 kB"),
        (63_249, "63.2 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (6.3e12, "6.3 TB"),
        (2.5e15, "2,500.0 TB"),
        (-5000, "-5,000 B"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert progress.format_bytes(count) == text


def test_bytes_are_shown_as_sizes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("download", 6_000_000, in_bytes=True) as advance:
        clock.now += 10
        advance(2_500_000)
        advance(-500_000)  # what had to be dropped
        clock.now += 10
        advance(4_000_000)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "download: 2.5 MB of 6.0 MB, 250.0 kB/s, 14 s left"
    assert last == "download: 6.0 MB of 6.0 MB in 20.0 s, 300.0 kB/s"


def test_a_terminal_shows_sizes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout", terminal)
    with progress.track("download", 30_000_000, in_bytes=True) as advance:
        advance(10_000_000)
        advance(20_000_000)
    assert "30.0 MB/30.0 MB" in terminal.getvalue()


def test_threads_lose_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with progress.track("download", 40_000) as advance:
            threads = [
                threading.Thread(target=lambda: [advance(1) for _ in range(10_000)])
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert "download: 40,000 of 40,000" in capsys.readouterr().out
