"""A chat template is somebody's program: whatever it does ends soon, with one error that names the fix."""

import resource
import signal
import threading
import time

import pytest
from helpers.chats import ZEPHYR, tokenizer_of

from demotune.common.errors import DemotuneError
from demotune.data.rendering import Renderer, RenderError, limits
from demotune.records import Message

FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
ENDS = "{% endfor %}{% endfor %}{% endfor %}"

HOSTILE = {
    "loops for ever": (FOREVER + ENDS, "has not ended"),
    "loops for ever inside a macro": (
        "{% macro spin() %}" + FOREVER + ENDS + "{% endmacro %}{{ spin() }}",
        "has not ended",
    ),
    "writes for ever": (FOREVER + "{{ 'x' * 100000 }}" + ENDS, "needs more than|has not ended"),
    "grows a list for ever": (
        "{% set ns = namespace(x=[1]) %}{% for a in range(99999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "needs more than|has not ended",
    ),
    "one huge string": ("{{ 'x' * 10**10 }}", "needs more than"),
    "one huge string of a row's own text": ("{{ (messages[0].content * 10**9) | length }}", "needs more than"),
    "a padded number": ("{{ '%9999999999d' | format(1) }}", "needs more than|fails on one question"),
    "a huge power": ("{{ 9 ** (9 ** 9) }}", "has not ended|needs more than|fails on one question"),
    "calls itself": ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    "a range that is too long": ("{% for a in range(10 ** 12) %}{% endfor %}", "Range too big"),
    "more text than is read": ("{{ 'x' * ((messages | length) * (2**26 + 1)) }}", "characters, at most 67,108,864"),
    "not a key": ("{{ {[1]: 2} }}", "unhashable"),
    "raises": ("{{ raise_exception('not today') }}", "not today"),
    "no template at all": ("{% for m in messages %}{{ m.content", "fails on one question"),
    "deeply nested": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion|nested|needs more than"),
    "not a function": ("{{ messages() }}", "not callable"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_templates_end_soon_with_one_error(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 1.0)
    template, problem = HOSTILE[what]
    tokenizer = tokenizer_of(template)
    begun = time.monotonic()
    with pytest.raises(DemotuneError, match=problem) as caught:
        Renderer(tokenizer)
    assert time.monotonic() - begun < 5
    assert "--template $'### Instruction: {prompt}" in str(caught.value)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_template_that_runs_away_on_one_row_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # A row refused after ten seconds would be a run of days where many rows are alike.
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    template = "{% if messages[0].content == 'loop' %}" + FOREVER + ENDS + "{% endif %}" + ZEPHYR
    renderer = Renderer(tokenizer_of(template))
    assert renderer.prompt_ids(ask("A"))
    with pytest.raises(DemotuneError, match=r"has not ended after 0\.2 s"):
        renderer.prompt_ids(ask("loop"))


def test_row_of_which_the_template_makes_too_much_is_a_bad_row(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(tokenizer_of(ZEPHYR))
    monkeypatch.setattr(limits, "LONGEST", 100)
    assert renderer.prompt_ids(ask("A"))
    with pytest.raises(RenderError, match="rendering too long"):
        renderer.prompt_ids(ask("A" * 100))


def test_an_alarm_that_was_set_before_still_rings() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda signum, frame: rung.append(signum))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with limits.bounded():
            time.sleep(0.1)
        assert not rung
        time.sleep(0.05)
        assert rung == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_size_is_bounded_outside_the_main_thread_too() -> None:
    caught: list[Exception] = []

    def build() -> None:
        try:
            Renderer(tokenizer_of("{{ 'x' * 10**10 }}"))
        except DemotuneError as error:
            caught.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert "needs more than 2 GiB" in str(caught[0])
