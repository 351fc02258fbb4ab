"""Progress lines: counts, rates and how often they come."""

import io

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
