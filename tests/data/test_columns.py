"""Columns beside the text: what they become, and that no two rows which differ in them are taken for one."""

import json
from pathlib import Path

import pytest
from helpers.outside import OUTSIDE

from demotune.common.errors import DemotuneError
from demotune.data import Loaded, load_demonstrations, load_preferences
from demotune.records import Context, Demonstration

CASES = OUTSIDE / "cases"


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def write(tmp_path: Path, *rows) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(tmp_path: Path, *rows, **options) -> Loaded[Demonstration]:
    return load_demonstrations([write(tmp_path, *rows)], **options)


ALPACA = {"instruction": "Add.", "input": "2+2", "output": "4"}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
PLAIN = {"prompt": "2+2?", "completion": "4"}
TOOL = {"name": "add", "parameters": {"type": "object"}}
PAGE = {"title": "Sums", "text": "2+2=4"}

# name: (row, prompt, reasoning, context)
BESIDE = {
    "Alpaca with system and history": (
        {**ALPACA, "system": "Be kind.", "history": [["Hi", "Hello!"], ["1+1", "2"]]},
        (system("Be kind."), user("Hi"), assistant("Hello!"), user("1+1"), assistant("2"), user("Add.\n\n2+2")),
        "",
        Context(),
    ),
    "empty ones are absent": (
        {**ALPACA, "system": "", "history": [], "tools": "", "documents": None, "images": [], "thinking": ""},
        (user("Add.\n\n2+2"),),
        "",
        Context(),
    ),
    "history of messages, as text": (
        {**PLAIN, "history": json.dumps([user("Hi"), assistant("Hello!")])},
        (user("Hi"), assistant("Hello!"), user("2+2?")),
        "",
        Context(),
    ),
    "ShareGPT with system and tools as text": (
        {**SHAREGPT, "system": "Be kind.", "tools": json.dumps([TOOL])},
        (system("Be kind."), user("Hi")),
        "",
        Context(tools=(TOOL,)),
    ),
    "tools as a list of texts, and documents": (
        {**PLAIN, "tools": [json.dumps(TOOL)], "documents": [PAGE]},
        (user("2+2?"),),
        "",
        Context(tools=(TOOL,), documents=(PAGE,)),
    ),
    "a system column that says what the system turn says": (
        {"messages": [system("Be kind."), user("Hi"), assistant("Hello!")], "system": "Be kind."},
        (system("Be kind."), user("Hi")),
        "",
        Context(),
    ),
    "a thought in a column": ({**PLAIN, "reasoning_content": "Count."}, (user("2+2?"),), "Count.", Context()),
    "a thought in the turn, others before it": (
        {"messages": [user("a"), assistant("b", thinking="B"), user("c"), assistant("d", reasoning_content="D")]},
        (user("a"), assistant("b", reasoning_content="B"), user("c")),
        "D",
        Context(),
    ),
    "a thought beside the completion": (
        {"prompt": [user("a")], "completion": [assistant("b", reasoning="B")]},
        (user("a"),),
        "B",
        Context(),
    ),
    "roles in all spellings": (
        {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "User", "content": "Hi"},
                      {"role": "MODEL", "content": "Ho"}, {"role": "Human", "content": "Hu"},
                      {"role": "bot", "content": "Hello!"}]},
        (system("Be kind."), user("Hi"), assistant("Ho"), user("Hu")),
        "",
        Context(),
    ),
    "text in parts": (
        {"messages": [user([{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]),
                      assistant([{"type": "text", "text": "c", "image_url": None}])]},
        (user("a b"),),
        "",
        Context(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("row", "prompt", "reasoning", "context"), BESIDE.values(), ids=BESIDE)
def test_a_column_beside_the_text_becomes_what_is_written_here(tmp_path, row, prompt, reasoning, context):
    loaded = load(tmp_path, row)
    assert loaded.bad_rows == ()
    (demonstration,) = loaded.rows
    assert (demonstration.prompt, demonstration.reasoning, demonstration.context) == (prompt, reasoning, context)


WEIGHTED = [
    user("a"),
    assistant("b", weight=0),
    user("c"),
    assistant("d", weight=1),
    user("e"),
    assistant("f", train=False),
]


@pytest.mark.parametrize(
    ("turns", "every_turn", "taught"),
    [
        (WEIGHTED[:4], False, ["d"]),
        (WEIGHTED[:4], True, ["d"]),
        (WEIGHTED, False, ["d"]),
        (WEIGHTED, True, ["d"]),
        ([user("a"), assistant("b", loss=True), user("c"), assistant("d", loss=False)], True, ["b"]),
        ([user("a"), assistant("b", training=1), user("c"), assistant("d", weight=None)], True, ["b", "d"]),
    ],
)
def test_turns_of_weight_0_are_context_and_never_learned(tmp_path, turns, every_turn, taught):
    loaded = load(tmp_path, {"messages": turns}, every_turn=every_turn)
    assert [one.response for one in loaded.rows] == taught
    for one in loaded.rows:
        before = [turn["content"] for turn in turns[: [turn["content"] for turn in turns].index(one.response)]]
        assert [turn["content"] for turn in one.prompt] == before


def test_what_follows_the_last_turn_to_learn_is_cut_and_counted(tmp_path):
    path = write(tmp_path, {"messages": WEIGHTED}, {"messages": [user("x"), *WEIGHTED[1:]]})
    assert load_demonstrations([path]).notes[1:] == (
        f"{path}: rows cut after the last turn to learn (the rest has weight 0): 2",
        f"{path}: assistant turns of weight 0 that are context only: 2",
    )


def test_a_completion_of_weight_0_teaches_nothing_even_after_a_prompt_with_replies(tmp_path):
    loaded = load(
        tmp_path, {"prompt": [user("a"), assistant("b"), user("c")], "completion": [assistant("d", weight=0)]}, PLAIN
    )
    assert [bad.reason for bad in loaded.bad_rows] == ["no turn to learn"]


DIFFERENT = [
    PLAIN,
    {**PLAIN, "system": "Be kind."},
    {**PLAIN, "history": [["Hi", "Hello!"]]},
    {**PLAIN, "tools": [TOOL]},
    {**PLAIN, "documents": [PAGE]},
    {**PLAIN, "documents": [{**PAGE, "text": "other"}]},
    {**PLAIN, "thinking": "Count."},
    {**PLAIN, "prompt": [user("Hi"), assistant("Hello!", thinking="Greet."), user("2+2?")]},
]


def test_rows_that_differ_in_anything_beside_the_text_stay_apart_and_the_same_ones_are_named(tmp_path):
    loaded = load(tmp_path, *DIFFERENT, *DIFFERENT, {**PLAIN, "id": 3})
    assert len(loaded.rows) == len(DIFFERENT)
    assert [bad.reason for bad in loaded.bad_rows] == ["duplicate"] * (len(DIFFERENT) + 1)


def test_a_source_is_introduced_with_its_columns_and_what_was_understood_how(tmp_path):
    turns = [{"role": "developer", "content": "x"}, user("a"), assistant("b", weight=0), user("c"), assistant("d")]
    turns[1]["name"] = "Ann"
    path = write(tmp_path, {"id": 1, "messages": turns, "tools": [TOOL], "score": 3, "images": []})
    assert load_demonstrations([path]).notes == (
        f"read {path}: messages (last assistant turn); columns used: messages, tools; not used: id, score",
        f"{path}: roles read as: developer → system (1×)",
        f"{path}: turn keys not used: name (1×)",
        f"{path}: assistant turns of weight 0 that are context only: 1",
    )


def test_the_worse_response_is_not_used_by_demonstrations_and_is_by_preferences(tmp_path):
    path = write(tmp_path, {"prompt": "2+2?", "chosen": "4", "rejected": "5", "reasoning": "of a judge"})
    name = f"read {path}: preference rows: prompt and chosen; columns used: prompt, chosen"
    assert load_demonstrations([path]).notes == (f"{name}; not used: rejected, reasoning",)
    assert load_preferences([path]).notes == (f"{name}, rejected; not used: reasoning",)


def test_preferences_carry_thoughts_and_context(tmp_path):
    chosen, rejected = [assistant("4", reasoning="Count.")], [assistant("4", reasoning="Guess.")]
    path = write(tmp_path, {"prompt": [user("2+2?")], "chosen": chosen, "rejected": rejected, "tools": [TOOL]})
    (pair,) = load_preferences([path]).rows
    assert (pair.chosen, pair.rejected, pair.chosen_reasoning, pair.rejected_reasoning) == (
        "4",
        "4",
        "Count.",
        "Guess.",
    )
    assert pair.context == Context(tools=(TOOL,))


def test_every_part_beside_the_text_can_be_named(tmp_path):
    row = {"q": "2+2?", "a": "4", "persona": "Be kind.", "past": [["Hi", "Ho"]], "api": [TOOL], "why": "Count.",
           "pages": [PAGE]}  # fmt: skip
    named = "prompt=q,response=a,system=persona,history=past,tools=api,reasoning=why,documents=pages"
    (found,) = load(tmp_path, row, columns=named).rows
    assert found.prompt == (system("Be kind."), user("Hi"), assistant("Ho"), user("2+2?"))
    assert (found.response, found.reasoning, found.context) == ("4", "Count.", Context((TOOL,), (PAGE,)))


def test_a_part_beside_the_text_can_be_named_alone(tmp_path):
    (found,) = load(tmp_path, {**PLAIN, "persona": "Be kind."}, columns="system=persona").rows
    assert found.prompt == (system("Be kind."), user("2+2?"))


def test_a_column_is_not_read_twice(tmp_path):
    (found,) = load(tmp_path, {"system": "2+2?", "answer": "4"}, columns="prompt=system,response=answer").rows
    assert found.prompt == (user("2+2?"),)


def test_a_named_column_that_no_row_has_is_refused(tmp_path):
    with pytest.raises(
        DemotuneError, match="columns name persna as system, and no row has it; found: prompt, completion"
    ):
        load(tmp_path, PLAIN, columns="system=persna")


# name: (rows, prompt of the first, reasoning, tools)
SMALL_INPUTS = {
    "alpaca_system_history.jsonl": (
        (system("You answer like a sailor."), user("Name a number"), assistant("1"), user("Another"), assistant("2"),
         user("Name a number after 2")), "", (),
    ),
    "sharegpt_system_tools.jsonl": (
        (system("You are a weather desk."), user("Weather in town 0?")), "", ({"name": "forecast"},),
    ),
    "reasoning_content.jsonl": ((user("What is 0+2?"),), "Add two to 0.", ()),
    "turn_weights.jsonl": ((user("Sum of 0 and 2?"), assistant("It is 3."), user("Check again.")), "", ()),
    "developer_role.jsonl": ((system("Be brief."), user("Sum 0+2?")), "", ()),
    "text_parts.jsonl": ((user("Sum 0+2?"),), "", ()),
    "utf16.jsonl": ((user("Sum 0+2, café?"),), "", ()),
    "semicolon.csv": ((user("Sum 0+2?"),), "", ()),
}  # fmt: skip


@pytest.mark.parametrize("every_turn", [False, True])
@pytest.mark.parametrize(("name", "first"), SMALL_INPUTS.items(), ids=SMALL_INPUTS)
def test_small_inputs_that_failed_once(name, first, every_turn):
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; it is not part of the project")
    loaded = load_demonstrations([str(path)], every_turn=every_turn)
    assert loaded.bad_rows == ()
    assert len(loaded.rows) == loaded.rows_read >= 12
    found = loaded.rows[0]
    assert (found.prompt, found.reasoning, found.context.tools) == first


def test_rows_as_select_writes_them_are_read_with_all_that_they_carry(tmp_path):
    row = {
        "source": "rows.jsonl:1",
        "prompt": [user("a"), assistant("b", reasoning_content="B"), user("c")],
        "completion": [assistant("d", reasoning_content="D")],
        "tools": [TOOL],
        "documents": [PAGE],
        "score": 0.5,
    }
    (found,) = load(tmp_path, row).rows
    assert found.prompt == tuple(row["prompt"])
    assert (found.response, found.reasoning, found.context) == ("d", "D", Context((TOOL,), (PAGE,)))


@pytest.mark.parametrize("value", ["on", "off", " True "])
def test_a_switch_where_a_thought_is_expected_is_no_thought(tmp_path, value):
    loaded = load(tmp_path, {**PLAIN, "reasoning": value})
    assert [row.reasoning for row in loaded.rows] == [""]
    assert any("on or off where a thought is expected, not used: reasoning (1×)" in note for note in loaded.notes)


def test_a_thought_of_the_last_turn_is_not_given_to_an_earlier_one(tmp_path):
    turns = [user("1+1?"), assistant("2"), user("2+2?"), assistant("5", weight=0)]
    loaded = load(tmp_path, {"messages": turns, "reasoning": "Two and two are five."})
    assert [(row.reason, row.detail) for row in loaded.bad_rows] == [
        ("turn weight", "the row has a thought of its last turn, which has weight 0")
    ]


@pytest.mark.parametrize("named", ["system=completion", "system=prompt", "reasoning=completion"])
def test_a_column_that_is_read_as_text_cannot_be_named_as_something_else(tmp_path, named):
    with pytest.raises(DemotuneError, match=f"--columns {named} names a column that is read as prompt and completion"):
        load(tmp_path, PLAIN, columns=named)


def test_the_type_of_a_part_may_be_anything_and_only_text_is_read(tmp_path):
    parts = [{"type": ["x"], "text": "2+2?"}]
    loaded = load(tmp_path, {"messages": [{"role": "user", "content": parts}, assistant("4")]}, {"messages": []})
    assert loaded.bad_rows[0].reason == "non-text content"
