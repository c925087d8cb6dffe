"""Thoughts in texts: what a policy wrote is read without its marks, and a text that mentions a tag stays whole."""

import pytest
from helpers.chats import ask, assistant, demo, family, tokenizer_of, user, with_plain_tags
from transformers import PreTrainedTokenizerBase

from demotune.data.rendering import Renderer, RenderError
from demotune.data.rendering.tokens import encode
from demotune.records import Demonstration

THOUGHT = Demonstration((user("Q1"),), "4.", "rows.jsonl:1", reasoning="Hm.")
MARKED = ["gptoss", "muse_glimmer", "gemma4_v5", "diffusion_gemma", "qwen3", "glm4moe", "lfm2_2_5", "deepseek_v31"]


@pytest.mark.parametrize("name", MARKED)
def test_response_is_read_without_the_marks_around_it(name: str) -> None:
    renderer = Renderer(family(name))
    assert renderer.decode(renderer.render(ask(response="4.")).demo.ids) == "4."
    assert renderer.decode(renderer.render(THOUGHT).demo.ids) == "<think>\nHm.\n</think>\n\n4."


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<|channel|>analysis<|message|>Hm. So", "<think>\nHm. So"),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant", "<think>\nHm."),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>", "<think>\nHm."),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>{}<|call|>",
            "<think>\nHm.\n</think>\n\nassistantcommentary{}",
        ),
        ("<|channel|>commentary<|message|>{}<|call|>", "commentary{}"),
        ("4.<|return|>", "4."),
        ("", ""),
    ],
)
def test_what_stands_in_other_marks_or_is_cut_off_is_not_lost(written: str, read: str) -> None:
    tokenizer = family("gptoss")
    assert Renderer(tokenizer).decode(encode(tokenizer, written)) == read


@pytest.mark.parametrize("name", ["qwen2_5", "mistral_v3", "llama3", "cohere2", "nemotron_3_nano", "qwen3"])
def test_nothing_else_is_taken_off(name: str) -> None:
    tokenizer = with_plain_tags(name)
    renderer = Renderer(tokenizer)
    for text in (" A\n", "<think>\nHm.\n</think>\n\nA", "Hm. </think> A", "to=user final"):
        ids = (*encode(tokenizer, text), renderer.end_id)
        assert renderer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text


MENTION = "Close the tag with </think> and go on."


def refusal(tokenizer: PreTrainedTokenizerBase, row: Demonstration) -> str:
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer).render(row)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "head"), [("gptoss", "<|channel|>final<|message|>"), ("gemma4_v5", ""), ("lfm2_2_5", "")]
)
def test_response_that_mentions_the_closing_tag_is_an_answer(name: str, head: str) -> None:
    tokenizer = with_plain_tags(name)
    written = tokenizer.decode(Renderer(tokenizer).render(ask(response=MENTION)).demo.ids)
    assert written.startswith(head + MENTION)


@pytest.mark.parametrize("name", ["qwen3", "glm4moe"])
def test_response_that_the_template_takes_for_a_thought_is_refused(name: str) -> None:
    assert refusal(with_plain_tags(name), ask(response=MENTION)) in {"response changed", "prompt changed by response"}


def test_response_that_the_template_puts_behind_its_own_opening_tag_is_refused() -> None:
    # Word for word the text is all there, but as a thought and its answer.
    splits = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
        "{% if '</think>' in m.content and m.role == 'assistant' %}"
        "{{ '<think>' + m.content.split('</think>')[0] + '</think>' + m.content.split('</think>')[1] }}"
        "{% else %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    tokenizer = tokenizer_of(splits)
    assert Renderer(tokenizer).render(ask())
    assert refusal(tokenizer, ask(response=MENTION)) == "response changed"
    assert refusal(tokenizer, demo(user("Q1"), assistant(MENTION), user("Q2"))) == "message lost"


@pytest.mark.parametrize("name", ["gptoss", "nemotron_3_nano", "qwen3_8", "llama3"])
def test_earlier_turn_that_mentions_the_closing_tag_stays_whole(name: str) -> None:
    row = demo(user("Q1"), assistant("Write </think> at the end."), user("Q2"))
    tokenizer = with_plain_tags(name)
    assert "Write </think> at the end." in tokenizer.decode(Renderer(tokenizer).render(row).prompt_ids)


@pytest.mark.parametrize("name", ["qwen3", "glm4moe", "lfm2_2_5", "deepseek_v31"])
def test_earlier_turn_that_the_template_cuts_at_the_tag_is_refused(name: str) -> None:
    row = demo(user("Q1"), assistant("Write </think> at the end."), user("Q2"))
    assert refusal(with_plain_tags(name), row) == "message lost"


def test_rows_cost_as_few_encodings_as_they_have_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_plain_tags("qwen3")
    renderer, calls = Renderer(tokenizer), []
    encode_all = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer),
        "__call__",
        lambda self, texts, **given: calls.append(texts) or encode_all(self, texts, **given),
    )
    renderer.render_all([ask("Q1", "A1"), ask("Q2", "A2")])
    # First each piece between two special tokens, once; then, as responses change the last token of their prompts, the
    # responses behind a line break.
    asked = "assistant\n<think>\n\n</think>\n\n"
    texts = [
        "<|im_start|>",
        "user\nQ1",
        "<|im_end|>",
        "\n",
        asked,
        f"{asked}A1",
        "assistant\n",
        "user\nQ2",
        f"{asked}A2",
    ]
    assert calls == [texts, ["\nA1", "<|im_end|>", "\nA2"]]
