"""Reasoning inside a text: <think>…</think> in front of an answer."""

OPEN, CLOSE = "<think>", "</think>"


def split_thought(text: str, *, opened: bool = False) -> tuple[str, str]:
    """The reasoning at the beginning of a text, and the answer after it; empty reasoning where there is none.

    opened: the text follows a prompt that may hold the opening tag, so that the closing one alone ends a thought too.
    Elsewhere a text without the opening tag only mentions the closing one.
    """
    head, close, answer = text.partition(CLOSE)
    head = head.lstrip()
    thought = head.removeprefix(OPEN)
    if not close or OPEN in thought or not (opened or head.startswith(OPEN)):
        return "", text
    return thought.strip(), answer.lstrip()


def with_thought(thought: str, answer: str) -> str:
    """The text that `split_thought` takes apart; a thought without an answer was cut off, and stays open."""
    if not thought:
        return answer
    return f"{OPEN}\n{thought}\n{CLOSE}\n\n{answer}" if answer else f"{OPEN}\n{thought}"
