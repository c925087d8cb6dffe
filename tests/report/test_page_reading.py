"""Finding one's way on the page: folds, links, words, tables to take away, names for screen readers, a phone."""

import csv
import io
from pathlib import Path

import pytest
from helpers.page_browser import HOSTILE, Browser, errors, set_width


def follow(page: Browser, link: str) -> str:
    """The id of what a link shows first: at the top of the window, or focused."""
    page.execute_script("location.hash = arguments[0]", link)
    page.execute_async_script("setTimeout(arguments[0], 100)")
    target = page.execute_script("return document.getElementById(decodeURIComponent(location.hash.slice(1)))")
    assert target.is_displayed()
    assert -1 <= page.execute_script("return arguments[0].getBoundingClientRect().top", target) < 800
    return str(target.get_attribute("id"))


def test_links_unfold_and_show_what_they_name(page: Browser) -> None:
    page.execute_script("for (const details of document.querySelectorAll('details')) details.open = false")
    assert follow(page, "#sample-key31") == "sample-key31"
    assert page.switch_to.active_element.get_attribute("id") == "sample-key31"
    assert page.find_element("id", "where").text == "31 to 40 of 45 prompts, page 4 of 5"
    page.find_element("id", "text").send_keys("prompt 44")
    assert follow(page, "#sample-key2") == "sample-key2"
    assert page.find_element("id", "text").get_attribute("value") == ""
    assert follow(page, "#word-nats") == "word-nats"
    assert follow(page, "#stages-1-3") == "stages-1-3"
    assert page.find_element("css selector", "#stages-1-3 .main-svg").is_displayed()
    assert not page.find_element("id", "stages-1-1").is_displayed()
    page.execute_script("location.hash = '#sample-nobody'; location.hash = '#%'")
    page.find_element("css selector", "nav a[href='#rigor'], nav a[href='#config']").click()
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.find_element("css selector", "#config").find_element("xpath", "ancestor::details").get_attribute("open")
    page.execute_script("document.querySelector('#wins-1-1 .anchor').click()")
    assert page.execute_script("return location.hash") == "#wins-1-1"


def choose_chart(page: Browser, place: int) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("css selector", ".choose")).select_by_index(place)


def test_one_quantity_at_a_time_is_shown_for_all_runs(page: Browser) -> None:
    def titles() -> list[str]:
        return [one.text for one in page.find_elements("css selector", "details:has(#stages) h3") if one.is_displayed()]

    assert titles() == ["Held-out log-likelihood per token, by stage"]
    choose_chart(page, 1)
    assert titles() == ["Gain per response since the start"]
    names = "return [...document.querySelectorAll('#stages-1-2 .legend li')].map((one) => one.textContent)"
    assert page.execute_script(names) == [HOSTILE.replace("/", "∕"), "control"]


def test_a_word_is_explained_on_focus_hover_and_tap(page: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    tip, term = page.find_element("id", "tip"), page.find_element("css selector", ".sentence .term")
    meaning = page.execute_script("return document.querySelector(arguments[0]).lastChild.textContent",
                                  term.get_dom_attribute("href"))  # fmt: skip
    assert not tip.is_displayed()
    page.execute_script("arguments[0].focus()", term)
    assert (tip.is_displayed(), tip.text) == (True, meaning)
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()
    term.click()
    assert tip.text == meaning
    assert page.execute_script("return location.hash") == ""
    page.execute_script("document.activeElement.blur()")
    ActionChains(page).move_to_element(page.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed()
    ActionChains(page).move_to_element(term).perform()
    assert tip.text == meaning


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("@SUM(A1)", "'@SUM(A1)"), ("-a", "'-a"),
        (" =1", "' =1"), ("\t=1", "'\t=1"), ("\r=1", "'\r=1"), ("＝1", "'＝1"), ("−a", "'−a"),
        ("−1.5", "-1.5"), ("+0.25", "+0.25"), ("1,234", "1234"), ("61%", "61%"), ("1.2e−05", "1.2e-05"),
        ('a "b", c', 'a ""b"", c'), ("two\nlines", "two\nlines"),
    ],
)  # fmt: skip
def test_a_cell_of_a_csv_file_is_no_formula(page: Browser, text: str, cell: str) -> None:
    assert page.execute_script("return csvCell(arguments[0])", text) == f'"{cell}"'


def test_every_table_can_be_downloaded(page: Browser) -> None:
    buttons = page.find_elements("css selector", "button.csv")
    assert len(buttons) == len(page.find_elements("css selector", "table"))
    text = page.execute_async_script(
        "const [button, done] = arguments, click = HTMLAnchorElement.prototype.click, make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { window.made = blob; return '' };"
        "HTMLAnchorElement.prototype.click = function () { window.file = this.download };"
        "button.click(); HTMLAnchorElement.prototype.click = click; URL.createObjectURL = make;"
        "window.made.text().then(done)",
        buttons[0],
    )
    rows = list(csv.reader(io.StringIO(text)))
    assert page.execute_script("return window.file") == "the-runs-side-by-side.csv"
    assert rows[0][:3] == ["run", "imitation", "reward"]
    assert rows[1][0] == HOSTILE.replace("/", "∕")
    assert rows[2][:3] == ["control", "too few held-out rows to tell", "–"]


def test_everything_has_a_name_for_screen_readers(page: Browser) -> None:
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    wanted = {"figure", "image", "button", "link", "combobox", "searchbox", "spinbutton", "checkbox", "table", "region"}
    assert [role for role, name in found if role in wanted and not name] == []
    assert ("figure", "Held-out log-likelihood per token, by stage") in found
    assert sum(role == "image" and name.startswith("Chart: ") for role, name in found) > 6


TOO_SMALL = """
const seen = [...document.querySelectorAll("a, button, summary, select, input, label.check")];
return seen.filter((one) => one.checkVisibility() && !one.matches(".skip, [type=checkbox]")).map((one) => {
  const { width, height } = [...one.getClientRects()][0];
  return [one.outerHTML.slice(0, 80), one.matches(".term, nav a, main a:not(.anchor)") ? 40 : width, height];
}).filter(([, width, height]) => width < 40 || height < 40);
"""


def test_a_phone_gets_a_short_page_that_a_thumb_can_use(opened: Browser, report: Path) -> None:
    set_width(opened, 390)
    opened.get(report.as_uri())
    assert opened.execute_script("return document.documentElement.scrollHeight") <= 12 * 844
    assert opened.execute_script("return [...document.querySelectorAll('details[open] h2')].map((one) => one.id)") == [
        "stages", "limits",
    ]  # fmt: skip
    assert opened.execute_script(TOO_SMALL) == []
    hint = opened.find_element("css selector", ".answer .sideways")
    assert hint.is_displayed()
    opened.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
    opened.execute_async_script("setTimeout(arguments[0], 300)")
    assert opened.execute_script(TOO_SMALL) == []
    assert opened.execute_script("return document.documentElement.scrollWidth") == 390
    assert errors(opened) == []
