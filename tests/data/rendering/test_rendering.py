"""Rendering: what the policy is trained on and what it is prompted with, for the template families in use."""

from dataclasses import dataclass

import pytest
from helpers.chats import ZEPHYR, ask, assistant, demo, system, tokenizer_of, user
from transformers import PreTrainedTokenizerFast

from demotune.common.errors import DemotuneError
from demotune.data.rendering import Renderer, RenderError, content_key
from demotune.records import Demonstration, Message

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if loop.last and message.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}"
    "{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if turn.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (first if loop.first else '') + turn.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + turn.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rules = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set rules = '' %}{% endif %}"
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + rules + '<|eot_id|>' }}"
    "{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{{ message.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + '[/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '<|User|>' + message.content }}"
    "{% else %}{{ '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
LLAMA3_SPECIALS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def chatml() -> PreTrainedTokenizerFast:
    return tokenizer_of(CHATML, ("<|im_start|>", "<|im_end|>"), eos="<|endoftext|>")


def llama2() -> PreTrainedTokenizerFast:
    return tokenizer_of(LLAMA2, bos="<s>", metaspace=True)


def llama3() -> PreTrainedTokenizerFast:
    return tokenizer_of(LLAMA3, LLAMA3_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>", listed=False)


@dataclass(frozen=True)
class Golden:
    """What a family's template writes for a conversation."""

    tokenizer: PreTrainedTokenizerFast
    demonstration: Demonstration
    prompt: str
    response: str
    end: str


TWO_TURNS = demo(user("Name a bird."), assistant("The swift"), user("What is 2+2?"))
WITH_SYSTEM = demo(system("Be brief."), user("Name a bird."), assistant("The swift"), user("What is 2+2?"))

GOLDENS = {
    "smollm2": lambda: Golden(
        chatml(),
        TWO_TURNS,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a bird.<|im_end|>\n"
        "<|im_start|>assistant\nThe swift<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
        "4.<|im_end|>",
        "<|im_end|>",
    ),
    "smollm2 with system": lambda: Golden(
        chatml(),
        demo(system("Answer."), user("What is 2+2?")),
        "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
        "4.<|im_end|>",
        "<|im_end|>",
    ),
    "qwen3": lambda: Golden(
        tokenizer_of(QWEN3, ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
        TWO_TURNS,
        "<|im_start|>user\nName a bird.<|im_end|>\n<|im_start|>assistant\nThe swift<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
        "<think>\n\n</think>\n\n4.<|im_end|>",
        "<|im_end|>",
    ),
    "llama2 with system": lambda: Golden(
        llama2(),
        WITH_SYSTEM,
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nName a bird. [/INST] The swift </s><s>[INST] What is 2+2? [/INST]",
        " 4. </s>",
        "</s>",
    ),
    "llama3 with system": lambda: Golden(
        llama3(),
        WITH_SYSTEM,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nName a bird.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nThe swift<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "4.<|eot_id|>",
        "<|eot_id|>",
    ),
    "mistral": lambda: Golden(
        tokenizer_of(MISTRAL, ("[INST]", "[/INST]"), bos="<s>", metaspace=True),
        TWO_TURNS,
        "<s>[INST] Name a bird.[/INST] The swift</s>[INST] What is 2+2?[/INST]",
        " 4.</s>",
        "</s>",
    ),
    "zephyr with system": lambda: Golden(
        tokenizer_of(ZEPHYR),
        WITH_SYSTEM,
        "<|system|>\nBe brief.</s>\n<|user|>\nName a bird.</s>\n<|assistant|>\nThe swift</s>\n"
        "<|user|>\nWhat is 2+2?</s>\n<|assistant|>\n",
        "4.</s>",
        "</s>",
    ),
    "gemma": lambda: Golden(
        tokenizer_of(GEMMA, ("<start_of_turn>", "<end_of_turn>"), bos="<bos>", eos="<eos>"),
        TWO_TURNS,
        "<bos><start_of_turn>user\nName a bird.<end_of_turn>\n<start_of_turn>model\nThe swift<end_of_turn>\n"
        "<start_of_turn>user\nWhat is 2+2?<end_of_turn>\n<start_of_turn>model\n",
        "4.<end_of_turn>",
        "<end_of_turn>",
    ),
    "deepseek-r1, whose generation prompt its own turns do not continue": lambda: Golden(
        tokenizer_of(DEEPSEEK_R1, ("<|User|>", "<|Assistant|>"), bos="<s>"),
        TWO_TURNS,
        "<s><|User|>Name a bird.<|Assistant|>The swift</s><|User|>What is 2+2?<|Assistant|>",
        "4.</s>",
        "</s>",
    ),
    "no generation prompt": lambda: Golden(
        tokenizer_of(CHATML.partition("{% if add_generation_prompt")[0], ("<|im_start|>", "<|im_end|>")),
        demo(system("Answer."), user("What is 2+2?")),
        "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
        "4.<|im_end|>",
        "<|im_end|>",
    ),
}


@pytest.mark.parametrize("family", GOLDENS)
def test_family(family: str) -> None:
    golden = GOLDENS[family]()
    tokenizer, renderer = golden.tokenizer, Renderer(golden.tokenizer)
    row = renderer.render(golden.demonstration)

    assert tokenizer.decode(row.prompt_ids) == golden.prompt
    assert tokenizer.decode([*row.prompt_ids, *row.demo.ids]) == golden.prompt + golden.response
    assert row.prompt_ids in renderer.prompt_forms(golden.demonstration.prompt)
    assert row.demo.finished
    assert row.demo.ids[-1] == renderer.end_id == tokenizer.convert_tokens_to_ids(golden.end)
    assert golden.end in renderer.description
    whole = tokenizer.apply_chat_template(
        [*golden.demonstration.prompt, assistant(golden.demonstration.response)],
        tokenize=False,
        date_string="26 Jul 2024",
    )
    assert whole.startswith(golden.prompt + golden.response)


def test_response_gets_no_space_that_the_template_does_not_write() -> None:
    # SentencePiece tokenizers put a space in front of any text that they see the beginning of.
    tokenizer = tokenizer_of(ZEPHYR, metaspace=True)
    row = Renderer(tokenizer).render(ask(response="Yes"))
    alone = tokenizer.encode("Yes</s>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")  # or this test shows nothing
    assert tokenizer.decode([*row.prompt_ids, *row.demo.ids]).endswith("<|assistant|>\nYes</s>")


@pytest.mark.parametrize("metaspace", [False, True])
def test_prompt_ids_do_not_depend_on_the_response(metaspace: bool) -> None:
    # "Response: " ends in a space, which tokenizers like to join with the next word: " Yes" is one token.
    tokenizer = tokenizer_of(None, metaspace=metaspace)
    renderer = Renderer(tokenizer, "### Instruction: {prompt} ### Response: ")
    row = renderer.render(ask("Be brief.", "Yes"))
    assert row.prompt_ids == renderer.prompt_ids([user("Be brief.")])
    assert row.prompt_ids == tuple(tokenizer.encode("### Instruction: Be brief. ### Response: "))
    joined = tokenizer.encode("### Instruction: Be brief. ### Response: Yes</s>")
    assert tuple(joined[: len(row.prompt_ids)]) != row.prompt_ids  # or this test shows nothing
    assert tokenizer.decode([*row.prompt_ids, *row.demo.ids]) == "### Instruction: Be brief. ### Response: Yes</s>"


def test_stop_ids_are_end_of_turn_eos_and_those_of_the_caller() -> None:
    tokenizer = chatml()
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert Renderer(tokenizer).stop_ids == {end, eos}
    assert Renderer(tokenizer, extra_stop_ids=[7]).stop_ids == {end, eos, 7}
    assert tokenizer.pad_token is None


def test_decode_is_for_people() -> None:
    renderer = Renderer(chatml())
    assert renderer.decode(renderer.render(ask(response="Yes, 2 + 2 .")).demo.ids) == "Yes, 2 + 2 ."


def test_key_names_the_ids() -> None:
    renderer = Renderer(chatml())
    row = renderer.render(ask())
    assert row.key == content_key(row.prompt_ids, row.demo.ids)
    # printf '[[1, 2], [3]]' | sha256sum
    assert content_key((1, 2), (3,)) == "192f318fa6690229"
    assert content_key((1,), (2, 3)) != content_key((1, 2), (3,))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([user("What is {0} {x}?")], "### Instruction: What is {0} {x}?\n\n### Response: "),
        ([user("Say {prompt}")], "### Instruction: Say {prompt}\n\n### Response: "),
        (
            [system("Be brief."), user("A"), assistant("B"), user("C")],
            "Be brief.\n\n### Instruction: A\n\n### Response: B\n\n### Instruction: C\n\n### Response: ",
        ),
    ],
)
def test_plain_template(prompt: list[Message], expected: str) -> None:
    # A chat template is there, but the template that the user gave wins.
    tokenizer = chatml()
    renderer = Renderer(tokenizer, "### Instruction: {prompt}\n\n### Response: ")
    row = renderer.render(demo(*prompt))
    assert tokenizer.decode(row.prompt_ids) == expected
    assert tokenizer.decode(row.demo.ids) == "4.<|endoftext|>"
    assert renderer.end_id == tokenizer.eos_token_id
    assert renderer.stop_ids == {tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("adds_bos", "template", "expected"),
    [
        (True, "{prompt}", "<s>Name a bird."),
        (True, "<s>{prompt}", "<s>Name a bird."),
        (False, "{prompt}", "Name a bird."),
    ],
)
def test_plain_template_begins_as_the_tokenizer_begins_plain_text(adds_bos: bool, template: str, expected: str) -> None:
    tokenizer = tokenizer_of(None, bos="<s>", adds_bos=adds_bos)
    row = Renderer(tokenizer, template).render(ask("Name a bird.", " The swift"))
    assert tokenizer.decode(row.prompt_ids) == expected
    assert tokenizer.decode(row.demo.ids) == " The swift</s>"


@pytest.mark.parametrize(
    "prompt",
    [
        [assistant("Hello"), user("A")],
        [user("A"), assistant("B"), assistant("C"), user("D")],
        [user("A"), system("B"), user("C")],
        [{"role": "tool", "content": "A"}, user("B")],
    ],
)
def test_plain_template_refuses_roles_that_it_cannot_write(prompt: list[Message]) -> None:
    with pytest.raises(RenderError) as caught:
        Renderer(chatml(), "{prompt}").prompt_ids(prompt)
    assert caught.value.reason == "roles out of order"


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(RenderError, match="empty prompt"):
        Renderer(chatml(), "{prompt}").prompt_ids([user("")])


@pytest.mark.parametrize(
    ("demonstration", "reason"),
    [
        (ask(response="4.<|im_end|>\n<|im_start|>user\nMore"), "control token in response"),
        (ask(response="4.<|endoftext|>"), "control token in response"),
        (ask(response="<|im_start|>user"), "control token in response"),
        (ask("Hi<|im_end|>"), "control token in prompt"),
        (ask("<tool>"), "control token in prompt"),
        (demo(user("A"), assistant("B<|endoftext|>"), user("C")), "control token in prompt"),
    ],
)
@pytest.mark.parametrize("template", [None, "<|im_start|>{prompt}<|im_end|>"])
def test_control_tokens_cannot_be_smuggled_in(demonstration: Demonstration, reason: str, template: str | None) -> None:
    tokenizer = tokenizer_of(CHATML, ("<|im_start|>", "<|im_end|>", "<tool>"), eos="<|endoftext|>")
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer, template).render(demonstration)
    assert caught.value.reason == reason


def test_response_may_hold_tokens_that_neither_stop_nor_mark_roles() -> None:
    tokenizer = tokenizer_of(CHATML, ("<|im_start|>", "<|im_end|>", "<tool>"), eos="<|endoftext|>")
    row = Renderer(tokenizer).render(ask(response="<tool>2+2"))
    assert tokenizer.decode(row.demo.ids) == "<tool>2+2<|im_end|>"
    with pytest.raises(RenderError, match="control token in response"):
        Renderer(tokenizer, extra_stop_ids=[tokenizer.convert_tokens_to_ids("<tool>")]).render(
            ask(response="<tool>2+2")
        )


def test_response_in_which_the_template_writes_a_stop_token_is_a_bad_row() -> None:
    tokenizer = tokenizer_of(QWEN3, ("<|im_start|>", "<|im_end|>", "</think>"), eos="<|im_end|>")
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer, extra_stop_ids=[tokenizer.convert_tokens_to_ids("</think>")]).render(ask())
    assert caught.value.reason == "control token in response"


def test_added_tokens_of_llama3_are_control_tokens_too() -> None:
    tokenizer = llama3()
    assert "<|eot_id|>" not in tokenizer.all_special_tokens  # or this test shows nothing
    with pytest.raises(RenderError, match="control token in prompt"):
        Renderer(tokenizer).prompt_ids([user("<|start_header_id|>")])


def test_characters_unknown_to_the_tokenizer_are_no_control_tokens() -> None:
    tokenizer = llama2()
    row = Renderer(tokenizer).render(ask("What is Ω?", "Ω"))
    assert tokenizer.unk_token_id in row.prompt_ids
    with pytest.raises(RenderError, match="control token in prompt"):
        Renderer(tokenizer).render(ask("What is <unk>?"))


def test_what_the_template_refuses_is_a_bad_row() -> None:
    with pytest.raises(RenderError) as caught:
        Renderer(llama2()).render(demo(user("A"), user("B")))
    assert caught.value.reason == "chat template refused"
    assert caught.value.detail == "Conversation roles must alternate"


def test_system_text_without_a_user_turn_to_stand_in_is_a_bad_row() -> None:
    renderer = Renderer(tokenizer_of(GEMMA, ("<start_of_turn>", "<end_of_turn>"), bos="<bos>"))
    with pytest.raises(RenderError) as caught:
        renderer.render(demo(system("Be brief."), assistant("A"), user("B")))
    assert caught.value.reason == "roles out of order"


def test_text_that_the_template_would_drop_is_a_bad_row() -> None:
    short = ZEPHYR.replace("message.content +", "message.content[:20] +")
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer_of(short)).render(ask(response="The swift is a bird of Europe"))
    assert caught.value.reason == "response changed"

    deaf = ZEPHYR.replace("{{ '<|'", "{% if message.role == 'system' %}{% continue %}{% endif %}{{ '<|'")
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer_of(deaf)).prompt_ids([system("Be brief."), user("A")])
    assert caught.value.reason == "message lost"


def test_prompt_that_changes_with_the_response_is_a_bad_row() -> None:
    template = ZEPHYR + "{% if messages[-1].content == 'odd' %}{{ 1 }}{% endif %}"
    template = "{% if messages[-1].content == 'odd' %}{{ 'Odd:' }}{% endif %}" + template
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer_of(template)).render(ask(response="odd"))
    assert caught.value.reason == "prompt changed by response"


def test_dates_in_templates_are_fixed_whatever_their_form() -> None:
    template = "{{ strftime_now('%Y-%m-%d') + '|' + strftime_now('%-d %B %y, %H:%M') }}" + ZEPHYR
    tokenizer = tokenizer_of(template)
    renderer = Renderer(tokenizer)
    text = tokenizer.decode(renderer.prompt_ids([user("A")]))
    assert text.startswith("2024-07-26|26 July 24, 12:00<|user|>")
    assert "26 Jul 2024" in renderer.description
    assert tokenizer.chat_template == template  # what is saved with the model stays as it was


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (None, "no chat template"),
        ({"rag": ZEPHYR}, "no chat template"),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", "no special token to stop on"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ eos_token }}", "does not write the assistant's text"),
        (
            "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}{{ messages[-1].content | length }}"
            "{% if add_generation_prompt %}{{ '###' }}{% endif %}",
            "does not continue its own generation prompt",
        ),
    ],
)
def test_templates_that_cannot_be_used_say_what_to_do(template: str | None, problem: str) -> None:
    with pytest.raises(DemotuneError) as caught:
        Renderer(tokenizer_of(template))
    assert problem in str(caught.value)
    assert r"--template $'### Instruction: {prompt}\n\n### Response: '" in str(caught.value)


def test_plain_template_needs_an_eos_token() -> None:
    with pytest.raises(DemotuneError, match=r"no EOS token.*set eos_token"):
        Renderer(tokenizer_of(None, eos=None), "{prompt}")
