"""The page of `demotune annotate` in a real browser: keys, undo, a phone, hostile text, a server that is gone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.annotations import Rater, rating, write_contest
from helpers.page_browser import Browser, errors, open_browser, set_width

from demotune.runs.annotations import read_votes

HOSTILE = "</div></script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'>&lt;b&gt; \u202e"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from open_browser(tmp_path_factory.mktemp("profile"))


def wait_for(page: Browser, text: str) -> None:
    """Until the line above the item holds this text."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 20).until(lambda _: text in page.find_element("id", "where").text)


def press(page: Browser, key: str, then: str) -> None:
    page.find_element("tag name", "body").send_keys(key)
    wait_for(page, then)


def opened(browser: Browser, rater: Rater, then: str) -> Browser:
    browser.get(rater.url)
    wait_for(browser, then)
    return browser


def verdicts(folder: Path) -> list[float | None]:
    return [vote.verdict for vote in read_votes(folder)["anna"]]


def answers(page: Browser) -> list[str]:
    return [box.get_attribute("textContent") for box in page.find_elements("css selector", "#answers .text")]


def test_a_rater_works_with_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    folder = write_contest(tmp_path)
    with rating(folder) as anna:
        page = opened(browser, anna, "1 of 4 · 0 rated")
        assert page.find_element("css selector", ".turn[data-role=user] .text").text == "question 0"
        wanted = [1.0 if text.startswith("good") else 0.0 for text in answers(page)]
        press(page, "1", "2 of 4 · 1 rated")
        press(page, "0", "3 of 4 · 2 rated")
        press(page, Keys.ARROW_LEFT, "2 of 4 · 2 rated")
        assert page.find_element("css selector", "button.chosen").text.endswith("tie")
        press(page, Keys.ARROW_LEFT, "1 of 4 · 2 rated")
        press(page, "2", "3 of 4 · 2 rated")  # another mind about the first; on to what has no vote
        press(page, "u", "1 of 4 · 1 rated")
        press(page, "1", "3 of 4 · 2 rated")
        page.refresh()
        wait_for(page, "3 of 4 · 2 rated")
        press(page, "2", "4 of 4 · 3 rated")
        press(page, "0", "all rated")
        assert page.find_element("id", "progress").get_property("value") == 4
        assert errors(page) == []
    assert verdicts(folder)[:5] == [wanted[0], 0.5, wanted[1], None, wanted[0]]


def test_hostile_text_stays_text_and_nothing_asks_the_network(browser: Browser, tmp_path: Path) -> None:
    with rating(write_contest(tmp_path, text=HOSTILE)) as anna:
        browser.get_log("performance")
        page = opened(browser, anna, "1 of 4")
        assert page.execute_script("return window.hurt") is None
        assert page.execute_script("return document.querySelectorAll('img').length") == 0
        assert sorted(answers(page)) == [f"{HOSTILE}bad 0", f"{HOSTILE}good 0"]
        assert errors(page) == []
        messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
        assert asked
        assert all(url.startswith((anna.url, "data:")) for url in asked)


def test_a_phone_shows_answers_below_each_other_and_large_buttons(browser: Browser, tmp_path: Path) -> None:
    with rating(write_contest(tmp_path, text="w" * 400)) as anna:
        set_width(browser, 360)
        try:
            page = opened(browser, anna, "1 of 4")
            first, second = page.find_elements("css selector", "article")
            assert second.location["y"] >= first.location["y"] + first.size["height"]
            assert page.execute_script("return document.documentElement.scrollWidth") <= 360
            buttons = page.find_elements("css selector", "#votes button")
            assert all(button.size["height"] >= 44 for button in buttons)
            buttons[1].click()
            wait_for(page, "2 of 4 · 1 rated")
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_vote_that_cannot_be_kept_is_said_and_the_page_stays(
    browser: Browser, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    folder = write_contest(tmp_path)
    with rating(folder) as anna:
        page = opened(browser, anna, "1 of 4")
        press(page, "1", "2 of 4 · 1 rated")
    page.find_element("tag name", "body").send_keys("1")
    eventually(lambda: "could not be saved" in page.find_element("id", "message").text)
    assert page.find_element("id", "where").text.startswith("2 of 4 · 1 rated")
    assert len(verdicts(folder)) == 1


def test_finish_ends_the_command(browser: Browser, tmp_path: Path) -> None:
    with rating(write_contest(tmp_path), finish=False) as anna:
        page = opened(browser, anna, "1 of 4")
        page.find_element("id", "finish").click()
        wait_for(page, "Thank you. 0 of 4 are rated")


@pytest.fixture
def eventually(browser: Browser) -> Callable[[Callable[[], bool]], None]:
    from selenium.webdriver.support.ui import WebDriverWait

    return lambda condition: WebDriverWait(browser, 20).until(lambda _: condition())
