"""index.html in a real browser: no console message, no sideways scroll on a telephone."""

import html
import pathlib
import re
import shutil
import subprocess

import pytest
import report_fixture

from ilias_jax.report.render import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
]


@pytest.fixture(scope="module")
def browser() -> str:
    """Returns the path of a Chromium; skips where there is none."""
    for name in BROWSERS:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)})")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns the page of a whole run with a full gallery."""
    directory = tmp_path_factory.mktemp("report")
    write_report(directory, report_fixture.document(), report_fixture.gallery())
    return directory / "index.html"


def load(browser: str, page: pathlib.Path, profile: pathlib.Path) -> tuple[str, list[str]]:
    """Returns the page's elements after loading, and the console's messages."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_console_stays_empty(browser: str, report: pathlib.Path, tmp_path: pathlib.Path) -> None:
    elements, messages = load(browser, report, tmp_path / "profile")
    assert 'id="gallery"' in elements
    assert messages == []


def test_console_messages_would_be_seen(browser: str, tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>console.error('seen')</script>")
    _, messages = load(browser, page, tmp_path / "profile")
    assert len(messages) == 1 and "seen" in messages[0]


@pytest.mark.parametrize("width", [400, 1280])
def test_no_sideways_scroll(
    browser: str, report: pathlib.Path, tmp_path: pathlib.Path, width: int
) -> None:
    # A browser window has a least width above 400 pixels; a frame in it has none.
    text = report.read_text(encoding="utf-8").replace("<details>", "<details open>")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f"<meta charset=utf-8><iframe width={width} height=800 style='border:0' "
        f'srcdoc="{html.escape(text)}"></iframe><p></p><script>onload = () => {{'
        "const root = document.querySelector('iframe').contentDocument.documentElement;"
        "document.querySelector('p').textContent = `${root.clientWidth} ${root.scrollWidth} "
        "${root.querySelectorAll('.result').length}`; }</script>",
        encoding="utf-8",
    )
    elements, _ = load(browser, wrapper, tmp_path / "profile")
    found = re.search(r"<p>(\d+) (\d+) (\d+)</p>", elements)
    assert found is not None
    inner, needed, results = (int(group) for group in found.groups())
    assert width - 20 <= inner <= width
    assert needed <= inner
    assert results == 128
