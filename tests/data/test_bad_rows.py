"""Each way in which a row can be bad: it is refused with its line and reason, and its neighbours are kept."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demotune.data import Reason, load_demonstrations
from demotune.data.raw_rows import RowError
from demotune.data.readers.json_files import json_line
from demotune.data.turns import Remarks, checked_turns, every_exchange, last_exchange

GOOD = {"prompt": "2+2?", "completion": "4"}
TURN_GOOD = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


# name: (a good row of the format, the bad one as it stands in the file, reason, part of the detail)
BAD = {
    "cut off": (GOOD, b'{"prompt": "3+3?", "comp', "broken JSON", "line 1 column 20"),
    "nested too deep": (GOOD, b"[" * 100_000, "broken JSON", "recursion"),
    "a list": (GOOD, b'["3+3?", "6"]', "not an object", "a list of 2"),
    "a number": (GOOD, b"7", "not an object", "int 7"),
    "not UTF-8": (GOOD, b'{"prompt": "caf\xe9?", "completion": "yes"}', "invalid UTF-8", "byte 0xe9 at position 15"),
    "half a surrogate pair": (GOOD, {"prompt": "3+3?", "completion": "six \ud83d"}, "invalid UTF-8", "position 4"),
    "no completion": (GOOD, {"prompt": "3+3?"}, "missing column", "no completion; columns here: prompt"),
    "null completion": (GOOD, {"prompt": "3+3?", "completion": None}, "missing column", "completion is null"),
    "number as completion": (GOOD, {"prompt": "3+3?", "completion": 6}, "wrong type", "completion is int 6"),
    "object as prompt": (GOOD, {"prompt": {"a": 1}, "completion": "6"}, "wrong type", "prompt is a dict of 1"),
    "text inside messages": (GOOD, {"prompt": ["3+3?"], "completion": "6"}, "wrong type", "prompt[0] is text '3+3?'"),
    "empty prompt": (GOOD, {"prompt": "", "completion": "6"}, "empty prompt", "''"),
    "blank prompt": (GOOD, {"prompt": " \n\t", "completion": "6"}, "empty prompt", r"' \n\t'"),
    "no prompt messages": (GOOD, {"prompt": [], "completion": "6"}, "empty prompt", "no messages"),
    "empty response": (GOOD, {"prompt": "3+3?", "completion": ""}, "empty response", "''"),
    "blank response": (GOOD, {"prompt": "3+3?", "completion": [assistant("  ")]}, "empty response", "'  '"),
    "no response messages": (GOOD, {"prompt": "3+3?", "completion": []}, "empty response", "no messages"),
    "another prompt in chosen": (
        {"prompt": "2+2?", "chosen": "4"},
        {"prompt": "3+3?", "chosen": [user("4+4?"), assistant("8")]},
        "prompt mismatch",
        "chosen",
    ),
    "prompt ends with the assistant": (
        GOOD,
        {"prompt": [user("3+3?"), assistant("Well,")], "completion": "6"},
        "no final user turn",
        "by the assistant",
    ),
    "blank instruction": (
        {"instruction": "Add.", "output": "4"},
        {"instruction": " ", "input": "2", "output": "4"},
        "empty prompt",
        "instruction",
    ),
    "chosen is text on its own": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b"},
        {"chosen": "6"},
        "no user turn",
        "without a prompt",
    ),
    "HH ends with the human": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b"},
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"},
        "no final assistant turn",
        "last of 3 turns is by the user",
    ),
    "ends with the user": (
        TURN_GOOD,
        {"messages": [user("3+3?"), assistant("6"), user("Sure?")]},
        "no final assistant turn",
        "last of 3 turns is by the user",
    ),
    "no messages": (TURN_GOOD, {"messages": []}, "empty prompt", "no messages"),
    "no user": (
        TURN_GOOD,
        {"messages": [{"role": "system", "content": "x"}, assistant("6")]},
        "no user turn",
        "1 turns",
    ),
    "unknown role": (
        TURN_GOOD,
        {"messages": [{"role": "narrator", "content": "x"}, assistant("6")]},
        "unknown role",
        "messages[0] has the role text 'narrator'",
    ),
    "no role": (TURN_GOOD, {"messages": [{"content": "x"}, assistant("6")]}, "unknown role", "null"),
    "unhashable role": (TURN_GOOD, {"messages": [{"role": [], "content": "x"}]}, "unknown role", "a list of 0"),
    "tool call": (
        TURN_GOOD,
        {"messages": [user("x"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "tool call",
        "messages[1] has tool_calls",
    ),
    "tool result": (
        TURN_GOOD,
        {"messages": [user("x"), {"role": "tool", "content": "y"}, assistant("z")]},
        "tool call",
        "messages[1] has the role tool",
    ),
    "a tool's result under another name": (
        TURN_GOOD,
        {"messages": [user("x"), {"from": "Observation", "value": "y"}, assistant("z")]},
        "tool call",
        "messages[1] has the role observation",
    ),
    "tools inside a turn": (
        TURN_GOOD,
        {"messages": [{"role": "system", "content": "x", "tools": [{"name": "f"}]}, user("x"), assistant("y")]},
        "tool call",
        "messages[0] has tools",
    ),
    "a picture among the parts": (
        TURN_GOOD,
        {"messages": [user([{"type": "text", "text": "x"}, {"type": "image", "url": "a"}]), assistant("y")]},
        "non-text content",
        "part 2 of the content of messages[0] is text 'image'",
    ),
    "a picture beside the text of a part": (
        TURN_GOOD,
        {"messages": [user([{"type": "text", "text": "x", "image_url": "a"}]), assistant("y")]},
        "non-text content",
        "has image_url",
    ),
    "a picture in a turn": (
        TURN_GOOD,
        {"messages": [{**user("x"), "images": ["a.png"]}, assistant("y")]},
        "non-text content",
        "messages[0] has images",
    ),
    "a picture in a column": (GOOD, {**GOOD, "image": "a.png"}, "non-text content", "image is text 'a.png'"),
    "a key twice": (GOOD, b'{"prompt": "a", "prompt": "b", "completion": "c"}', "key given twice", "'prompt'"),
    "a key twice in a turn": (
        TURN_GOOD,
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]}',
        "key given twice",
        "'content'",
    ),
    "a key twice in tools": (GOOD, {**GOOD, "tools": '[{"name": "a", "name": "b"}]'}, "key given twice", "tools"),
    "every turn has weight 0": (
        TURN_GOOD,
        {"messages": [user("x"), {**assistant("y"), "weight": 0}]},
        "no turn to learn",
        "weight 0",
    ),
    "half a weight": (
        TURN_GOOD,
        {"messages": [user("x"), {**assistant("y"), "weight": 0.5}]},
        "turn weight",
        "weight of messages[1] is float 0.5",
    ),
    "a weight in words": (
        TURN_GOOD,
        {"messages": [user("x"), {**assistant("y"), "train": "no"}]},
        "turn weight",
        "train of messages[1] is text 'no'",
    ),
    "two system texts": (
        TURN_GOOD,
        {"messages": [{"role": "system", "content": "x"}, user("y"), assistant("z")], "system": "other"},
        "two system texts",
        "the system column differs",
    ),
    "two thoughts in a turn": (
        TURN_GOOD,
        {"messages": [user("x"), {**assistant("y"), "thinking": "a", "reasoning_content": "b"}]},
        "two thoughts",
        "reasoning_content and thinking, which differ",
    ),
    "two thoughts in a row": (
        TURN_GOOD,
        {"messages": [user("x"), {**assistant("y"), "thinking": "a"}], "reasoning": "b"},
        "two thoughts",
        "a column has another",
    ),
    "a user's thought": (
        TURN_GOOD,
        {"messages": [{**user("x"), "thinking": "a"}, assistant("y")]},
        "wrong type",
        "user",
    ),
    "broken tools": (GOOD, {**GOOD, "tools": "[{"}, "broken JSON", "tools is text that is not JSON"),
    "tools that are no objects": (GOOD, {**GOOD, "tools": ["7"]}, "wrong type", "tools[0] is int 7"),
    "tools with half a character": (GOOD, {**GOOD, "tools": [{"name": "\ud83d"}]}, "invalid UTF-8", "tools[0]"),
    "documents that are no list": (
        GOOD,
        {**GOOD, "documents": {"text": "a"}},
        "wrong type",
        "documents is a dict of 1",
    ),
    "history of one": (GOOD, {**GOOD, "history": [["a"]]}, "wrong type", "history[0] is a list of 1"),
    "history of numbers": (GOOD, {**GOOD, "history": [[1, 2]]}, "wrong type", "history[0] is int 1"),
    "a system number": (GOOD, {**GOOD, "system": 7}, "wrong type", "system is int 7"),
    "duplicate": (GOOD, dict(reversed(GOOD.items())), "duplicate", "rows.jsonl:1"),
}


def load_lines(tmp_path, lines, **options):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return load_demonstrations([str(path)], **options)


@pytest.mark.parametrize(("good", "bad", "reason", "detail"), BAD.values(), ids=BAD)
def test_a_bad_row_is_refused_with_its_line_and_reason(tmp_path, good, bad, reason, detail):
    loaded = load_lines(tmp_path, [good, b"", bad])
    assert [d.source for d in loaded.rows] == [f"{tmp_path / 'rows.jsonl'}:1"]
    assert [(row.source, row.reason) for row in loaded.bad_rows] == [(f"{tmp_path / 'rows.jsonl'}:3", reason)]
    assert detail in loaded.bad_rows[0].detail
    assert loaded.rows_read == 2  # the blank line is no row


def test_every_reason_has_a_test():
    in_other_tests = {"broken CSV", "unreadable value"}
    assert {reason for _, _, reason, _ in BAD.values()} | in_other_tests == set(get_args(Reason))


def test_an_empty_assistant_turn_in_the_middle_is_bad_when_every_turn_counts(tmp_path):
    row = {"messages": [user("a"), assistant(""), user("b"), assistant("c")]}
    refused = load_lines(tmp_path, [TURN_GOOD, row], every_turn=True)
    assert [(bad.reason, bad.detail) for bad in refused.bad_rows] == [
        ("empty response", "assistant turn 2 of 4 is text ''")
    ]
    assert len(refused.rows) == 1
    kept = load_lines(tmp_path, [TURN_GOOD, row])
    assert [d.response for d in kept.rows] == ["4", "c"]


def test_duplicates_are_exact_and_found_across_sources(tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text(json.dumps(GOOD) + "\n")
    other_space = {"prompt": "2+2?", "completion": "4 "}
    second.write_text(json.dumps(other_space) + "\n" + json.dumps(TURN_GOOD) + "\n" + json.dumps(GOOD) + "\n")
    loaded = load_demonstrations([str(first), str(second)])
    assert [d.response for d in loaded.rows] == ["4", "4 "]
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [
        (f"{second}:2", "missing column"),
        (f"{second}:3", "duplicate"),
    ]
    assert loaded.bad_rows[1].detail == f"same prompt and response as {first}:1"


def test_details_show_little_content(tmp_path):
    long = "x" * 5000
    rows = [GOOD, {"prompt": [user(long), {"role": long, "content": "y"}], "completion": "6"}, {long: 1}]
    loaded = load_lines(tmp_path, rows)
    assert [bad.reason for bad in loaded.bad_rows] == ["unknown role", "missing column"]
    assert all(bad.detail.count("x") <= 80 for bad in loaded.bad_rows)


def test_a_file_of_nothing_but_broken_lines_is_all_bad_rows(tmp_path):
    loaded = load_lines(tmp_path, [b"{", b"\xff"])
    assert loaded.rows == ()
    assert [bad.reason for bad in loaded.bad_rows] == ["broken JSON", "invalid UTF-8"]
    assert loaded.formats == {str(tmp_path / "rows.jsonl"): "no readable row"}


@given(st.binary(max_size=60))
def test_no_line_of_bytes_raises(line):
    try:
        expected_bad = not isinstance(json.loads(line.decode("utf-8")), dict)
    except ValueError:
        expected_bad = True
    assert hasattr(json_line(line, "f:1"), "reason") == expected_bad


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]), inner, max_size=3)
    ),
    max_leaves=8,
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.sampled_from(["", " ", "x"])}
)


@given(JSON_VALUES | st.lists(TURNS, max_size=6))
def test_any_value_gives_sound_exchanges_or_a_row_error(value):
    remarks = Remarks()
    for convert in (every_exchange, lambda turns, remarks: [last_exchange(turns, remarks)]):
        try:
            exchanges = convert(checked_turns(value, "messages", remarks), remarks)
        except RowError as refusal:
            assert refusal.reason in get_args(Reason)
            continue
        assert exchanges
        for exchange in exchanges:
            assert exchange.response.strip()
            assert exchange.prompt[-1]["role"] == "user"
            assert exchange.prompt[-1]["content"].strip()
