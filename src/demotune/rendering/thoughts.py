"""Reasoning inside a text: <think>…</think> in front of an answer."""

OPEN, CLOSE = "<think>", "</think>"


def split_thought(text: str) -> tuple[str, str]:
    """What a text thinks first, and the answer behind it; an empty thought where it does not begin with one.

    Samples of models whose prompts end with the opening tag hold the closing one only.
    """
    head, close, answer = text.partition(CLOSE)
    thought = head.lstrip().removeprefix(OPEN)
    if not close or OPEN in thought:
        return "", text
    return thought.strip(), answer.lstrip()
