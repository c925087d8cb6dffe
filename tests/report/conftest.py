"""One browser, and one hostile report that is open in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.page_browser import GAINS, HOSTILE, ROWS, Browser, open_browser
from helpers.report_folders import START_LOGPS, TOKENS, write_evaluation, write_run

from demotune.report import build_report


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from open_browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on 45 held-out rows, with an evaluation; every text that a user can choose is hostile."""
    root = tmp_path_factory.mktemp("report")
    start = [-100.0 - row for row in range(ROWS)]
    after = [logp + gain for logp, gain in zip(start, GAINS, strict=True)]
    name = HOSTILE.replace("/", "∕")
    first = write_run(
        root / name, start=start, stages=[after], tokens=[10] * ROWS, texts=HOSTILE, config={"run_name": HOSTILE},
        refused=[{"source": HOSTILE, "reason": HOSTILE, "detail": HOSTILE}], manifest={"command": HOSTILE},
    )  # fmt: skip
    second = write_run(root / "control", method="sft", start=START_LOGPS, tokens=TOKENS)
    evaluation = write_evaluation(root / "eval", name=HOSTILE, texts=HOSTILE)
    return build_report([first, second], root / "report.html", evaluations=[evaluation])


@pytest.fixture(scope="session")
def opened(browser: Browser, report: Path) -> Browser:
    """The report, opened once: reading plotly.js takes most of a test's time."""
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser itself asked for when it started
    browser.get(report.as_uri())
    return browser


@pytest.fixture
def page(opened: Browser) -> Browser:
    """The report as it opens on a desktop in light colours."""
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", **scheme})
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_script(
        "const form = document.querySelector('.controls'); form.reset(); form.dispatchEvent(new Event('change'));"
        "for (const one of document.querySelectorAll('details')) one.open = one.classList.contains('fold');"
        "const choose = document.querySelector('.choose'); choose.selectedIndex = 0;"
        "choose.dispatchEvent(new Event('change')); history.replaceState(null, '', ' ');"
        "document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'});"
    )
    opened.execute_async_script("setTimeout(arguments[0], 50)")  # opened charts are drawn by an event
    return opened
