"""Prompts without demonstrations: a text file with one a line, or JSONL with `prompt` or `messages`."""

import json
from pathlib import Path

from demotune.errors import DemotuneError
from demotune.records import Message


def read_prompt_file(file: Path) -> list[tuple[str, tuple[Message, ...]]]:
    """(`FILE:LINE`, conversation) of each line that is not empty. Raises DemotuneError, naming the line."""
    if not file.is_file():
        raise DemotuneError(f"prompts file {file} does not exist; give a .txt or .jsonl file with --prompts")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DemotuneError(f"prompts file {file} is not UTF-8 ({error}); save it as UTF-8") from error
    numbered = [(f"{file}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DemotuneError(f"prompts file {file} is empty; write one prompt a line")
    if file.suffix == ".txt":
        return [(where, as_prompt(line)) for where, line in numbered]
    return [(where, _conversation(where, line)) for where, line in numbered]


def as_prompt(text: str) -> tuple[Message, ...]:
    """A user's single turn."""
    return ({"role": "user", "content": text},)


def _conversation(where: str, line: str) -> tuple[Message, ...]:
    try:
        row = json.loads(line)
        value = row["messages"] if row.get("prompt") is None else row["prompt"]
        if isinstance(value, str):
            return as_prompt(value)
        prompt = tuple({"role": str(message["role"]), "content": message["content"]} for message in value)
        if prompt[-1]["role"] == "assistant" or not all(isinstance(turn["content"], str) for turn in prompt):
            raise TypeError("a prompt ends with the user's turn, and its content is text")
        return prompt
    except (json.JSONDecodeError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise DemotuneError(
            f'{where} is no prompt; write {{"prompt": "text"}}, or under "messages" a list of {{"role", "content"}} '
            "that ends with the user's turn"
        ) from error
