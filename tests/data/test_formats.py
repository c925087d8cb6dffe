"""Each format, written by hand, beside the demonstrations that it must become."""

import json
from pathlib import Path

import pytest

from demotune.common.errors import DemotuneError
from demotune.data import Loaded, load_demonstrations
from demotune.records import Demonstration


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def load(tmp_path: Path, *rows, **options) -> Loaded[Demonstration]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_demonstrations([str(path)], **options)


TALK = [system("Be kind."), user("Hi"), assistant("Hello!"), user("Bye"), assistant("See you.")]
SHAREGPT_TALK = [
    {"from": "system", "value": "Be kind."},
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Hello!"},
    {"from": "user", "value": "Bye"},
    {"from": "assistant", "value": "See you."},
]

ONE_ROW = {
    "both text": (
        {"prompt": "2+2?", "completion": " 4"},
        (user("2+2?"),),
        " 4",
        "prompt and completion",
    ),
    "both messages": (
        {"prompt": [system("Add."), user("2+2?")], "completion": [assistant("4")]},
        (system("Add."), user("2+2?")),
        "4",
        "prompt and completion",
    ),
    "messages then text": (
        {"prompt": [user("2+2?")], "completion": "4"},
        (user("2+2?"),),
        "4",
        "prompt and completion",
    ),
    "text then messages": (
        {"prompt": "2+2?", "completion": [assistant("4")]},
        (user("2+2?"),),
        "4",
        "prompt and completion",
    ),
    "completion goes on with a dialogue": (
        {"prompt": "2+2?", "completion": [assistant("4"), user("Sure?"), assistant("Yes")]},
        (user("2+2?"), assistant("4"), user("Sure?")),
        "Yes",
        "prompt and completion",
    ),
    "messages": (
        {"messages": TALK},
        tuple(TALK[:4]),
        "See you.",
        "messages (last assistant turn)",
    ),
    "messages beside a prompt column, as in ultrachat_200k": (
        {"prompt": "Hi", "prompt_id": "x", "messages": TALK},
        tuple(TALK[:4]),
        "See you.",
        "messages (last assistant turn)",
    ),
    "ShareGPT": (
        {"conversations": SHAREGPT_TALK, "id": 3},
        tuple(TALK[:4]),
        "See you.",
        "ShareGPT conversations (last assistant turn)",
    ),
    "SPIN": (
        {"real": [user("Hi"), assistant("Hello!")], "generated": [user("Hi"), assistant("hi hi")]},
        (user("Hi"),),
        "Hello!",
        "SPIN pairs: real (last assistant turn)",
    ),
    "preference, text": (
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        (user("2+2?"),),
        "4",
        "preference rows: prompt and chosen",
    ),
    "preference, messages, no rejected": (
        {"prompt": [user("2+2?")], "chosen": [assistant("4")]},
        (user("2+2?"),),
        "4",
        "preference rows: prompt and chosen",
    ),
    "preference, prompt repeated in chosen, as in ultrafeedback_binarized": (
        {"prompt": "Hi", "chosen": [user("Hi"), assistant("Hello!")], "messages": [user("Hi"), assistant("Hello!")]},
        (user("Hi"),),
        "Hello!",
        "preference rows: prompt and chosen",
    ),
    "preference, whole conversations": (
        {"chosen": TALK, "rejected": [*TALK[:4], assistant("Go.")]},
        tuple(TALK[:4]),
        "See you.",
        "preference rows: chosen, whole conversations",
    ),
    "Anthropic HH": (
        {
            "chosen": "\n\nHuman: Hi\nthere\n\nAssistant: Hello!\n\nBoth: of you\n\nHuman: Bye\n\nAssistant: See you.",
            "rejected": "\n\nHuman: Hi\nthere\n\nAssistant: No.",
        },
        (user("Hi\nthere"), assistant("Hello!\n\nBoth: of you"), user("Bye")),
        "See you.",
        "preference rows: chosen, whole conversations",
    ),
    "HH with the prompt apart": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Bye\n\nAssistant:", "chosen": " See you.\n"},
        (user("Hi"), assistant("Hello!"), user("Bye")),
        "See you.",
        "preference rows: prompt and chosen",
    ),
    "Alpaca with input": (
        {"instruction": "Add.", "input": "2 and 2", "output": "4"},
        (user("Add.\n\n2 and 2"),),
        "4",
        "Alpaca: instruction, input, output",
    ),
    "Alpaca with empty input": (
        {"instruction": "Add 2 and 2.", "input": "", "output": "4", "text": "..."},
        (user("Add 2 and 2."),),
        "4",
        "Alpaca: instruction, input, output",
    ),
    "Alpaca with blank input": (
        {"instruction": "Add 2 and 2.", "input": " \n", "output": "4"},
        (user("Add 2 and 2."),),
        "4",
        "Alpaca: instruction, input, output",
    ),
    "prompt and response": (
        {"prompt": "2+2?", "response": "4", "model": "x"},
        (user("2+2?"),),
        "4",
        "prompt and response",
    ),
    "question and answer": ({"question": "2+2?", "answer": "4"}, (user("2+2?"),), "4", "question and answer"),
    "question about a text": (
        {"question": "Who came?", "context": "Ann came.", "answer": "Ann"},
        (user("Who came?\n\nAnn came."),),
        "Ann",
        "question and answer",
    ),
    "query and response": ({"query": "2+2?", "response": "4"}, (user("2+2?"),), "4", "query and response"),
    "Dolly": (
        {"instruction": "Who came?", "context": "Ann came.", "response": "Ann", "category": "closed_qa"},
        (user("Who came?\n\nAnn came."),),
        "Ann",
        "instruction and response",
    ),
    "OpenOrca": (
        {"system_prompt": "Add.", "question": "2+2?", "response": "4"},
        (system("Add."), user("2+2?")),
        "4",
        "question and response",
    ),
    "Alpaca without input": (
        {"instruction": "Add 2 and 2.", "output": "4"},
        (user("Add 2 and 2."),),
        "4",
        "Alpaca: instruction, input, output",
    ),
}


@pytest.mark.parametrize(("row", "prompt", "response", "format_name"), ONE_ROW.values(), ids=ONE_ROW)
def test_a_row_becomes_the_demonstration_written_beside_it(tmp_path, row, prompt, response, format_name):
    loaded = load(tmp_path, row)
    path = str(tmp_path / "rows.jsonl")
    assert loaded.rows == (Demonstration(prompt, response, f"{path}:1"),)
    assert loaded.bad_rows == ()
    assert loaded.formats == {path: format_name}
    assert loaded.rows_read == 1


@pytest.mark.parametrize("row", [{"messages": TALK}, {"conversations": SHAREGPT_TALK}, {"real": TALK, "generated": []}])
def test_every_turn_makes_a_demonstration_of_each_assistant_turn(tmp_path, row):
    loaded = load(tmp_path, row, every_turn=True)
    source = f"{tmp_path / 'rows.jsonl'}:1"
    assert loaded.rows == (
        Demonstration(tuple(TALK[:2]), "Hello!", source),
        Demonstration(tuple(TALK[:4]), "See you.", source),
    )
    assert loaded.rows_read == 1
    assert "every assistant turn" in loaded.formats[str(tmp_path / "rows.jsonl")]


def test_every_turn_takes_only_assistant_turns_that_answer_a_user(tmp_path):
    turns = [assistant("Welcome"), user("Hi"), assistant("Hello!"), assistant("Again")]
    loaded = load(tmp_path, {"messages": turns}, every_turn=True)
    assert [d.response for d in loaded.rows] == ["Hello!"]
    assert loaded.rows[0].prompt == (assistant("Welcome"), user("Hi"))


def test_every_turn_leaves_rows_with_a_prompt_of_their_own_alone(tmp_path):
    loaded = load(tmp_path, {"prompt": TALK[:4], "chosen": [TALK[4]]}, every_turn=True)
    assert [d.response for d in loaded.rows] == ["See you."]


def test_columns_name_prompt_and_response(tmp_path):
    loaded = load(
        tmp_path,
        {"question": "2+2?", "answer": "4", "prompt": "not this", "completion": "nor this"},
        {"question": [user("3+3?")], "answer": [assistant("6")]},
        columns="prompt=question, response=answer",
    )
    assert [(d.prompt, d.response) for d in loaded.rows] == [((user("2+2?"),), "4"), ((user("3+3?"),), "6")]
    assert loaded.formats == {str(tmp_path / "rows.jsonl"): "columns question and answer"}


def test_columns_name_messages(tmp_path):
    loaded = load(tmp_path, {"dialogue": TALK}, columns="messages=dialogue", every_turn=True)
    assert [d.response for d in loaded.rows] == ["Hello!", "See you."]


@pytest.mark.parametrize(
    "columns", ["question", "prompt=question", "prompt=,response=b", "prompt=a,response=b,x=c", "prompt=a,answer=b", ""]
)
def test_malformed_columns_are_refused_with_an_example(tmp_path, columns):
    with pytest.raises(DemotuneError, match=r"--columns prompt=question,response=answer") as caught:
        load(tmp_path, {"question": "2+2?", "answer": "4"}, columns=columns)
    assert repr(columns) in str(caught.value)


PROPOSED = {
    "by exact names": ({"id": "7", "answer": "4", "problem": "2+2?"}, "prompt=problem,response=answer"),
    "by words in names": (
        {"ticket": "a-long-number-of-a-ticket", "customer_message": "Hi", "agent_reply": "Hello!"},
        "prompt=customer_message,response=agent_reply",
    ),
    "one by its name, one by length": (
        {"id": "x", "essay": "x" * 40, "solution": "y"},
        "prompt=essay,response=solution",
    ),
    "by order and length": ({"a": "x" * 9, "id": "7", "b": "y" * 90}, "prompt=a,response=b"),
    "a conversation": ({"turns": [user("Hi"), assistant("Hello!")]}, "messages=turns"),
}


@pytest.mark.parametrize(("row", "flag"), PROPOSED.values(), ids=PROPOSED)
def test_no_format_fits_lists_the_columns_and_shows_the_flag_for_them(tmp_path, row, flag):
    with pytest.raises(DemotuneError) as caught:
        load(tmp_path, row)
    message = str(caught.value)
    assert f"rows.jsonl: these columns fit no known format; found: {', '.join(row)};" in message
    assert message.endswith(f"--columns {flag}")
    assert load(tmp_path, row, columns=flag).rows


@pytest.mark.parametrize("row", [{"text": "2+2? 4"}, {"text": "2+2? 4", "n": 4}, {"n": 1}])
def test_no_flag_is_shown_where_no_two_columns_hold_text(tmp_path, row):
    with pytest.raises(DemotuneError, match="demonstrations need a prompt and a response") as caught:
        load(tmp_path, row)
    assert "--columns" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<|user|>\n2+2?\n<|assistant|>\n4", "<|assistant|>"),
        ("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>", "<|im_start|>assistant"),
        ("### Instruction:\n2+2?\n\n### Response:\n4", "### Response:"),
        ("<s>[INST] 2+2? [/INST] 4 </s>", "[/INST]"),
        ("User: 2+2?\nAssistant: 4", "Assistant:"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"source": "a file with a long name"}])
def test_a_column_of_rendered_conversations_is_named_with_what_to_do(tmp_path, text, mark, more):
    with pytest.raises(DemotuneError, match="text holds whole conversations that a chat template wrote") as caught:
        load(tmp_path, {"text": text, **more})
    assert f"cut each text before its last {mark!r} into two columns, prompt and completion" in str(caught.value)


@pytest.mark.parametrize("columns", ["prompt=text,response=text", "messages=text,rejected=text", "system=a,tools=a"])
def test_one_column_cannot_be_two_parts(tmp_path, columns):
    with pytest.raises(DemotuneError, match=r"columns name (text|a) as \w+ and as \w+"):
        load(tmp_path, {"text": "2+2? 4", "a": "b"}, columns=columns)


def test_columns_that_no_row_has_are_an_error_and_not_a_file_of_bad_rows(tmp_path):
    with pytest.raises(
        DemotuneError, match="no row has the columns of 'prompt=q,response=a'; found: prompt, completion"
    ):
        load(tmp_path, {"prompt": "2+2?", "completion": "4"}, columns="prompt=q,response=a")


def test_the_format_is_that_of_most_rows_even_if_the_first_lacks_a_column(tmp_path):
    good = [{"prompt": f"{n}+1?", "completion": str(n + 1)} for n in range(3)]
    loaded = load(tmp_path, {"instruction": "x", "output": "y"}, *good)
    assert [d.response for d in loaded.rows] == ["1", "2", "3"]
    assert [(bad.source.rpartition(":")[2], bad.reason) for bad in loaded.bad_rows] == [("1", "missing column")]
