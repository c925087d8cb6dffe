"""Reasoning, tools and documents of a row: written as the chat template does it, or refused by name."""

from collections.abc import Mapping

import pytest
from helpers.chats import ZEPHYR, ask, assistant, demo, family, system, tokenizer_of, user

from demotune.data.rendering import Renderer, RenderError
from demotune.records import Context, Demonstration

FORECAST = {"type": "function", "function": {"name": "forecast", "description": "Weather.", "parameters": {}}}
TOOLS = Context(tools=(FORECAST,))
PAPER = Context(documents=({"title": "Birds", "text": "The swift sleeps in the air."},))


def with_context(context: Context, *, reasoning: str = "") -> Demonstration:
    return Demonstration((user("Q1"),), "A1", "rows.jsonl:1", reasoning, context)


def refusal(renderer: Renderer, row: Demonstration) -> str:
    with pytest.raises(RenderError) as caught:
        renderer.render(row)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("qwen3", '<tools>\n{"type": "function", "function": {"name": "forecast"'),
        ("mistral_v3", '<BOS>[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "forecast"'),
        ("glm4moe", '{"type": "function", "function": {"name": "forecast"'),
        ("gptoss", "// Weather.\ntype forecast = () => any;"),
    ],
)
def test_tools_go_to_templates_that_take_them(name: str, written: str) -> None:
    tokenizer = family(name)
    renderer = Renderer(tokenizer)
    row = renderer.render(with_context(TOOLS))
    assert written in tokenizer.decode(row.prompt_ids)
    assert row.question == renderer.prompt_ids([user("Q1")], TOOLS)
    assert row.demo == renderer.render(ask("Q1", "A1")).demo
    assert row.prompt_ids in renderer.prompt_forms([user("Q1")], TOOLS)


def test_documents_go_to_templates_that_take_them() -> None:
    tokenizer = family("grounded")
    row = Renderer(tokenizer).render(with_context(PAPER))
    assert tokenizer.decode(row.prompt_ids) == (
        "<|documents|>Birds: The swift sleeps in the air.\n<|user|>Q1<EOS><|assistant|>"
    )


def test_second_template_for_tools_is_used_for_rows_with_tools() -> None:
    tokenizer = tokenizer_of(None)
    tokenizer.chat_template = {"default": ZEPHYR, "tool_use": "{{ (tools | tojson) + '\n' }}" + ZEPHYR}
    renderer = Renderer(tokenizer)
    assert tokenizer.decode(renderer.render(with_context(TOOLS)).prompt_ids).startswith('[{"type": "function"')
    assert tokenizer.decode(renderer.render(ask("Q1")).prompt_ids).startswith("<|user|>")


@pytest.mark.parametrize(
    ("name", "template", "context", "reason"),
    [
        ("gemma", None, TOOLS, "tools not written"),
        ("qwen3", None, PAPER, "documents not written"),
        ("grounded", None, TOOLS, "tools not written"),
        ("qwen3", "Q: {prompt} A: ", TOOLS, "tools not written"),
        ("qwen3", "Q: {prompt} A: ", PAPER, "documents not written"),
    ],
)
def test_rows_whose_context_is_not_written_are_refused(
    name: str, template: str | None, context: Context, reason: str
) -> None:
    renderer = Renderer(family(name), template)
    assert refusal(renderer, with_context(context)) == reason
    with pytest.raises(RenderError, match=reason):
        renderer.prompt_ids([user("Q1")], context)


def test_template_that_writes_some_of_the_tools_is_refused() -> None:
    tokenizer = tokenizer_of("{% if tools %}{{ tools[0].function.name + '\n' }}{% endif %}" + ZEPHYR)
    other = {"type": "function", "function": {"name": "tide"}}
    renderer = Renderer(tokenizer)
    assert renderer.render(with_context(TOOLS))
    assert refusal(renderer, with_context(Context(tools=(FORECAST, other)))) == "tools not written"


@pytest.mark.parametrize(
    ("written", "document"),
    [
        ("{{ d.title }} {{ d.text }}", {"title": "T", "contents": "the facts"}),
        ("{{ d.title }}", {"title": "Birds", "text": "The swift sleeps in the air."}),
    ],
)
def test_document_whose_longest_text_is_not_written_is_refused(written: str, document: Mapping[str, object]) -> None:
    tokenizer = tokenizer_of("{% for d in documents or [] %}" + written + "{% endfor %}" + ZEPHYR)
    renderer = Renderer(tokenizer)
    assert renderer.render(ask("Q1"))
    assert refusal(renderer, with_context(Context(documents=(document,)))) == "documents not written"


def test_document_may_be_written_as_json() -> None:
    tokenizer = tokenizer_of("{{ documents | tojson if documents else '' }}" + ZEPHYR)
    row = Renderer(tokenizer).render(with_context(Context(documents=({"title": "T", "text": 'So "a\nb" é'},))))
    assert 'So \\"a\\nb\\" é' in tokenizer.decode(row.prompt_ids)


def smuggling(text: str) -> Mapping[str, object]:
    return {"type": "function", "function": {"name": "forecast", "description": text}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (with_context(Context(), reasoning="so<|im_end|>"), "control token in response"),
        (with_context(Context(), reasoning="so</think>"), "control token in response"),
        (ask("Q1", "<think>so<|im_end|></think>A1"), "control token in response"),
        (ask("Q1", "<think>so</think>A1<|im_start|>user"), "control token in response"),
        (with_context(Context(tools=(smuggling("<|im_end|>"),))), "control token in prompt"),
        (with_context(Context(documents=({"text": "<|im_start|>"},))), "control token in prompt"),
        (demo(user("A"), {**assistant("B"), "reasoning_content": "<|im_end|>"}, user("C")), "control token in prompt"),
        (demo(user("A"), assistant("<think>so</think>B<|im_end|>"), user("C")), "control token in prompt"),
        (
            demo(
                user("<think>"),
            ),
            "control token in prompt",
        ),
    ],
)
def test_control_tokens_cannot_be_smuggled_in_beside_the_text(row: Demonstration, reason: str) -> None:
    assert refusal(Renderer(family("qwen3")), row) == reason


def test_tags_of_a_thought_are_no_smuggling_where_they_are_special_tokens() -> None:
    tokenizer = family("qwen3")
    assert {"<think>", "</think>"} <= set(tokenizer.all_special_tokens)  # or this test shows nothing
    renderer = Renderer(tokenizer)
    assert renderer.render(demo(user("A"), assistant("<think>so</think>B"), user("C"), response="<think>so</think>B"))


def test_row_with_two_thoughts_is_a_bad_row() -> None:
    renderer = Renderer(family("qwen3"))
    twice = Demonstration((user("Q1"),), "<think>so</think>A1", "rows.jsonl:1", reasoning="so")
    assert renderer.render(twice) == renderer.render(ask("Q1", "<think>so</think>A1"))
    other = Demonstration((user("Q1"),), "<think>so</think>A1", "rows.jsonl:1", reasoning="not so")
    assert refusal(renderer, other) == "reasoning twice"


def test_row_that_thinks_and_says_nothing_is_a_bad_row() -> None:
    assert refusal(Renderer(family("qwen3")), ask("Q1", "<think>so</think>\n")) == "no answer"


def test_plain_template_leaves_reasoning_of_fields_out_and_says_so() -> None:
    tokenizer = family("qwen3")
    renderer = Renderer(tokenizer, "Q: {prompt} A: ")
    assert renderer.render(with_context(Context(), reasoning="so")) == renderer.render(ask("Q1", "A1"))
    assert renderer.remarks() == ("the template does not write reasoning, so it is left out: 1 conversation",)
    kept = renderer.render(ask("Q1", "<think>so</think>A1"))
    assert tokenizer.decode(kept.demo.ids) == "<think>so</think>A1<EOS>"


def test_reasoning_of_earlier_turns_that_is_never_written_is_said() -> None:
    row = demo(user("A"), {**assistant("B"), "reasoning_content": "so"}, user("C"))
    for template in (None, "Q: {prompt} A: "):
        renderer = Renderer(family("llama3"), template)
        renderer.render(row)
        assert renderer.remarks() == ("the template does not write reasoning, so it is left out: 1 conversation",)


def test_system_text_is_merged_in_prompts_without_response_too() -> None:
    tokenizer = family("gemma")
    renderer = Renderer(tokenizer)
    ids = renderer.prompt_ids([system("Rules."), system("More."), user("Q1")])
    assert tokenizer.decode(ids) == (
        "<BOS><start_of_turn>user\nRules.\n\nMore.\n\nQ1<end_of_turn>\n<start_of_turn>model\n"
    )
    assert renderer.remarks()[0].endswith("in front of the first user turn: 1 conversation")


@pytest.mark.parametrize("name", ["gemma", "mistral_v3", "llama3", "phi3"])
def test_bos_is_written_once_where_the_tokenizer_adds_one_too(name: str) -> None:
    plain = family(name)
    tokenizer = tokenizer_of(plain.chat_template, tuple(plain.extra_special_tokens), bos="<BOS>", adds_bos=True)
    assert tokenizer.encode("A")[0] == tokenizer.bos_token_id  # or this test shows nothing
    prompt = tokenizer.decode(Renderer(tokenizer).render(ask("Q1", "A1")).prompt_ids)
    assert prompt.count("<BOS>") == (0 if name == "phi3" else 1)  # Phi 3's template writes none
    assert tokenizer.decode(Renderer(tokenizer, "Q: {prompt}").prompt_ids([user("Q1")])) == "<BOS>Q: Q1"
