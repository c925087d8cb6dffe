"""The report in a real browser: what a reader clicks works, hostile text stays text, and nothing asks the network."""

import base64
import json
import re

import pytest
from helpers.page_browser import GAINS, HOSTILE, ROWS, Browser, choose, errors, find_or_skip, set_width, shown


def test_a_machine_without_a_browser_skips_and_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="none of no-such-browser is installed"):
        find_or_skip("no-such-browser")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="none of no-such-browser is installed"):
        find_or_skip("no-such-browser")


def worst_first() -> list[str]:
    return [f"key{row}" for row in sorted(range(ROWS), key=lambda row: GAINS[row])]


def test_charts_are_drawn_and_no_error_is_logged(page: Browser) -> None:
    counts = page.execute_script(
        "const seen = [...document.querySelectorAll('.plot')].filter((plot) => plot.offsetParent);"
        "return [seen.length, document.querySelectorAll('.plot .main-svg').length > 0,"
        " seen.every((plot) => plot.querySelector('.main-svg'))]"
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
    page.execute_script("document.querySelector('#browser details details summary').focus()")
    assert [press(Keys.TAB) for _ in range(5)] == ["text", "metric", "cut", "size", "next"]
    assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(Keys.ENTER)
    assert shown(page)[0] == "key10"
    press("k")
    assert shown(page)[0] == "key0"
    press("j")
    assert shown(page)[0] == "key10"
    assert press("/") == "text"
    press("prompt 3")
    assert shown(page) == ["key3", *(f"key{row}" for row in range(30, 39))]
    assert page.find_element("id", "where").text == "1 to 10 of 11 prompts, page 1 of 2; 45 without the filters"


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


def test_print_is_light_short_and_without_controls(page: Browser) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script("return [...document.querySelectorAll('details[open] h2')].map((one) => one.id)") == [
        "stages", "wins", "cost", "evaluations", "samples", "limits",
    ]  # fmt: skip
    assert len(shown(page)) == 2
    assert page.execute_script("return getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert page.execute_script("return getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    assert page.execute_script("return getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
    widths = (
        "return [...document.querySelectorAll('.plot .main-svg')].filter((one) => one.checkVisibility())"
        ".map((one) => one.clientWidth)"
    )
    assert set(page.execute_script(widths)) <= {330, 680}
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(
        "return [...document.querySelectorAll('details')].every((one) => one.open === one.classList.contains('fold'))"
    )
    assert len(shown(page)) == 10


def test_a_printed_page_has_six_sheets_at_most(page: Browser) -> None:
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    assert 2 <= len(re.findall(rb"/Type /Page\b(?!s)", pdf)) <= 6


def test_the_policy_of_the_page_would_stop_a_request(page: Browser) -> None:
    """The last test of this file: the refusal stands in the browser's log."""
    assert errors(page) == []
    page.execute_script(
        "const image = new Image(); image.src = 'https://example.invalid/x.png'; document.body.append(image)"
    )
    page.execute_async_script("setTimeout(arguments[0], 50)")
    page.execute_script("document.querySelector('img').remove()")
    assert any("Content Security Policy" in text for text in errors(page))
