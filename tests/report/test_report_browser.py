"""The report in a real browser: what a reader clicks works, hostile text stays text, and nothing asks the network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import Browser, errors, find_or_skip, open_browser, set_width
from helpers.report_folders import START_LOGPS, TOKENS, write_evaluation, write_run

from demotune.report import build_report

HOSTILE = "</script><script>window.hurt=1;alert(1)</script><img src=x onerror='window.hurt=2'>{{7*7}}"
ROWS = 45
GAINS = [(row * 7) % ROWS - 10.0 for row in range(ROWS)]
"""What stage 0 adds to each held-out demonstration: -10 to 34, in no order."""


def test_a_machine_without_a_browser_skips_and_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="none of no-such-browser is installed"):
        find_or_skip("no-such-browser")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="none of no-such-browser is installed"):
        find_or_skip("no-such-browser")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from open_browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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
        "for (const details of document.querySelectorAll('details')) details.open = false;"
        "document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'});"
    )
    return opened


def choose(page: Browser, control: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", control)).select_by_visible_text(value)


def shown(page: Browser) -> list[str]:
    """Keys of the samples on the page."""
    titles = page.execute_script("return [...document.querySelectorAll('.sample h3')].map((h) => h.textContent)")
    return [title.split(" · ")[1] for title in titles]


def worst_first() -> list[str]:
    return [f"key{row}" for row in sorted(range(ROWS), key=lambda row: GAINS[row])]


def test_charts_are_drawn_and_no_error_is_logged(page: Browser) -> None:
    counts = page.execute_script(
        "return [document.querySelectorAll('.plot').length, document.querySelectorAll('.plot .main-svg').length > 0,"
        " [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))]"
    )
    assert counts[0] > 6
    assert counts[1:] == [True, True]
    assert errors(page) == []


def test_hostile_text_stays_text(page: Browser) -> None:
    assert page.execute_script("return window.hurt") is None
    elements = "return [document.querySelectorAll('img').length, document.querySelectorAll('script').length]"
    assert page.execute_script(elements) == [0, 3]
    assert (
        page.execute_script("return document.querySelector('.answer-text pre').textContent") == f"{HOSTILE} of start 0"
    )
    assert "49" not in page.execute_script("return document.querySelector('h1').textContent")
    labels = page.execute_script("return [...document.querySelectorAll('.annotation-text')].map((t) => t.textContent)")
    assert any("<script>" in text for text in labels)
    assert page.execute_script("return document.querySelectorAll('.plot a').length") == 0


def test_nothing_asks_the_network(page: Browser) -> None:
    assert page.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def test_samples_sort_filter_and_turn_pages(page: Browser) -> None:
    assert shown(page) == [f"key{row}" for row in range(10)]
    choose(page, "metric", "likelier by")
    assert shown(page) == worst_first()[:10]
    choose(page, "order", "best first")
    assert shown(page) == worst_first()[::-1][:10]
    choose(page, "order", "worst first")
    page.find_element("css selector", ".next").click()
    assert shown(page) == worst_first()[10:20]
    assert page.find_element("id", "where").text == "11 to 20 of 45 prompts, page 2 of 5"
    choose(page, "size", "50")
    assert len(shown(page)) == 45
    page.find_element("id", "least").send_keys("30")
    assert shown(page) == worst_first()[-5:]
    page.find_element("id", "most").send_keys("31")
    assert shown(page) == worst_first()[-5:-3]
    page.find_element("id", "least").clear()
    page.find_element("id", "most").clear()
    choose(page, "metric", "order of the data")
    page.find_element("id", "text").send_keys("Prompt 44")
    assert shown(page) == ["key44"]
    page.find_element("id", "text").clear()
    page.find_element("id", "text").send_keys("nobody wrote this")
    assert page.find_element("id", "where").text == "no prompt fits; loosen the filters"
    page.find_element("id", "text").clear()
    page.find_element("id", "cut").click()
    assert shown(page) == ["key0"]


def test_sorting_offers_only_those_who_have_the_number(page: Browser) -> None:
    choose(page, "metric", "tokens")
    assert shown(page)[0] == "key44"  # longest is worst
    choose(page, "metric", "reward by judge")
    enabled = page.execute_script(
        "return [...document.querySelectorAll('#who option:enabled')].map((o) => o.textContent)"
    )
    assert enabled == ["eval: rejected response", f"eval: {HOSTILE}"]
    assert len(shown(page)) == 3


def test_the_keyboard_reaches_the_controls(page: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> str:
        ActionChains(page).send_keys(*keys).perform()
        focused = page.switch_to.active_element
        return str(focused.get_attribute("id") or focused.get_attribute("class") or focused.tag_name)

    page.execute_script("document.querySelector('.skip').focus()")
    assert page.execute_script("return document.querySelector('.skip').getBoundingClientRect().top") >= 0
    assert [press(Keys.TAB) for _ in range(3)] == ["a", "a", "a"]
    page.execute_script("document.querySelector('#browser summary').focus()")
    assert [press(Keys.TAB) for _ in range(5)] == ["metric", "text", "cut", "size", "next"]
    assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(Keys.ENTER)
    assert shown(page)[0] == "key10"
    press("k")
    assert shown(page)[0] == "key0"
    press("j")
    assert shown(page)[0] == "key10"


def test_numbers_stand_behind_each_chart(page: Browser) -> None:
    details = page.find_elements("css selector", "details.numbers")
    assert len(details) == len(page.find_elements("css selector", ".plot"))
    assert not details[0].find_element("css selector", "table").is_displayed()
    details[0].find_element("css selector", "summary").click()
    assert details[0].find_element("css selector", "table").is_displayed()
    assert "start model" in details[0].text
    labels = page.execute_script(
        "return [...document.querySelectorAll('.plot')].map((p) => p.getAttribute('aria-label'))"
    )
    assert all(label.startswith("Chart: ") for label in labels)


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(page: Browser, width: int) -> None:
    set_width(page, width)
    page.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
    page.execute_async_script("setTimeout(arguments[0], 300)")  # plotly draws again after a pause
    assert page.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert (
        page.execute_script("return Math.max(...[...document.querySelectorAll('.main-svg')].map((s) => s.clientWidth))")
        <= width
    )
    assert errors(page) == []


def test_charts_follow_the_theme(page: Browser) -> None:
    ink = "return getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    line = "return getComputedStyle(document.querySelector('.plot .js-line')).stroke"
    assert (page.execute_script(ink), page.execute_script(line)) == ("rgb(87, 96, 106)", "rgb(0, 114, 178)")
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    page.execute_async_script("setTimeout(arguments[0], 200)")
    assert (page.execute_script(ink), page.execute_script(line)) == ("rgb(163, 173, 184)", "rgb(86, 180, 233)")
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"


def test_print_is_light_open_and_without_controls(page: Browser) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script("return [...document.querySelectorAll('details')].every((one) => one.open)")
    assert page.execute_script("return getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert page.execute_script("return getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    assert page.execute_script("return getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
    widths = "return [...document.querySelectorAll('.plot .main-svg')].map((one) => one.clientWidth)"
    assert set(page.execute_script(widths)) == {680}
    overlaps = (
        "return [...document.querySelectorAll('figure.chart')].some((chart) => chart.querySelector('.main-svg')"
        ".getBoundingClientRect().bottom > chart.querySelector('table').getBoundingClientRect().top)"
    )
    assert not page.execute_script(overlaps)
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not page.execute_script("return [...document.querySelectorAll('details')].some((one) => one.open)")


def test_the_policy_of_the_page_would_stop_a_request(page: Browser) -> None:
    """The last test of this file: the refusal stands in the browser's log."""
    assert errors(page) == []
    page.execute_script(
        "const image = new Image(); image.src = 'https://example.invalid/x.png'; document.body.append(image)"
    )
    page.execute_async_script("setTimeout(arguments[0], 50)")
    assert any("Content Security Policy" in text for text in errors(page))
