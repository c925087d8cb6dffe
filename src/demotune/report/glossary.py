"""The words of the page that a reader may not know, and where they occur in a text."""

import re

from markupsafe import Markup, escape

WORDS = {
    "nats": "Unit of log-probability, with the natural logarithm: 1 nat likelier is e = 2.7 times as probable.",
    "log-likelihood": "Logarithm of the probability that a policy gives to a text. Higher, nearer to 0, is likelier.",
    "policy": "The language model that is trained; the start model is what the run began with.",
    "demonstration": "A good response from your data: what the policy is to imitate.",
    "held out": "Kept from training, so that numbers on these rows show what happens on unseen prompts.",
    "sample": "An answer that a policy itself wrote to a prompt.",
    "pair": "A demonstration and one of the policy's own samples for the same prompt.",
    "reference": "The frozen policy that log-probabilities are compared with: the one at the start of the stage.",
    "stage": "One round of a method: sample, train, check. Stage 1 is in the folder stages/00.",
    "reward": "A number for an answer to a prompt. Implicit (SPIN, IRFT): β times the log-ratio of policy and "
    "reference; RFT trains a model for it.",
    "margin": "Reward of the demonstration minus reward of the sample. Above 0 the reward prefers the demonstration.",
    "reward accuracy": "Share of held-out pairs whose demonstration has the higher reward; a tie is half.",
    "shortcut": "What gives demonstrations away without their meaning: length, end token, first or last tokens.",
    "gate": "The check after a stage: is it better than the best policy before it, on held-out rows?",
    "95% interval": "Where the true value probably lies: such intervals hold it in about 95 of 100 studies.",
    "wall-clock time": "Seconds that passed, whatever else the machine did in them; another machine takes others.",
    "KL": "How far the policy has moved from the start model, in nats, on its own samples.",
    "rejected response": "The worse of the two responses in a row of preferences.",
}
"""Word -> what it means, in the order of the list on the page."""

FORMS = {"held-out": "held out", "accuracy of the reward": "reward accuracy", "log-probability": "log-likelihood"}
"""Other forms of a word."""
_ALL = {form: form for form in WORDS} | FORMS
_PATTERN = re.compile(
    rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(_ALL, key=len, reverse=True)))})(?:s)?(?![\w-])", re.IGNORECASE
)


def anchor(word: str) -> str:
    """The id of a word's meaning on the page."""
    return "word-" + re.sub(r"\W+", "-", word.lower())


def with_meanings(text: str) -> Markup:
    """The text, escaped, with a link to its meaning at the first occurrence of each word."""
    seen = set()

    def link(found: re.Match[str]) -> str:
        word = _word_of(found[0])
        if word in seen:
            return found[0]
        seen.add(word)
        return f'<a class="term" href="#{anchor(word)}">{found[0]}</a>'

    return Markup(_PATTERN.sub(link, str(escape(text))))


def _word_of(form: str) -> str:
    known = {name.lower(): word for name, word in _ALL.items()}
    return known.get(form.lower()) or known[form.lower().removesuffix("s")]
