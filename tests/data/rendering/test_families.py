"""What the chat templates of twenty-two model families give: written out, prompt ‖ response."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import trl
from helpers.chats import assistant, demo, family, system, user
from transformers import PreTrainedTokenizerFast

from demotune.data import load_demonstrations
from demotune.data.rendering import Renderer
from demotune.records import Demonstration

GPT_OSS = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2024-07-26\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
)
LLAMA = (
    "<BOS><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n"
)


@dataclass(frozen=True)
class Golden:
    """Prompt ‖ response of four rows."""

    alone: str
    """Q1 -> A1"""
    ruled: str
    """system Rules., Q1 -> A1"""
    second: str
    """system Rules., Q1, A1, Q2 -> A2"""
    thought: str | None = None
    """Q1 -> A1 after the thought Hm.; None where the family does not write reasoning."""


GOLDENS = {
    "qwen2_5": Golden(
        alone=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n‖A1<|im_end|>"
        ),
        ruled=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n‖A1<|im_end|>"
        ),
        second=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"
            "‖A2<|im_end|>"
        ),
    ),
    "qwen3": Golden(
        alone="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>",
        ruled=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>"
        ),
        second=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A2<|im_end|>"
        ),
        thought="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n‖<think>\nHm.\n</think>\n\nA1<|im_end|>",
    ),
    "qwen3_5_think": Golden(
        alone="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>",
        ruled=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>"
        ),
        second=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A2<|im_end|>"
        ),
        thought="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n‖Hm.\n</think>\n\nA1<|im_end|>",
    ),
    "qwen3_5_nothink": Golden(
        alone="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>",
        ruled=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>"
        ),
        second=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A2<|im_end|>"
        ),
        thought="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n‖Hm.\n</think>\n\nA1<|im_end|>",
    ),
    "qwen3_6": Golden(
        alone="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>",
        ruled=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A1<|im_end|>"
        ),
        second=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n‖A2<|im_end|>"
        ),
        thought="<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n‖Hm.\n</think>\n\nA1<|im_end|>",
    ),
    "nemotron_3_nano": Golden(
        alone=(
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>‖A1<|im_end|>"
        ),
        ruled=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>‖A1<|im_end|>"
        ),
        second=(
            "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>A1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>‖A2<|im_end|>"
        ),
        thought=(
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n"
            "‖Hm.\n</think>\nA1<|im_end|>"
        ),
    ),
    "deepseekv3": Golden(
        alone="<BOS><｜User｜>Q1<｜Assistant｜>‖A1<｜end▁of▁sentence｜>",
        ruled="<BOS>Rules.<｜User｜>Q1<｜Assistant｜>‖A1<｜end▁of▁sentence｜>",
        second=(
            "<BOS>Rules.<｜User｜>Q1<｜Assistant｜>A1<｜end▁of▁sentence｜><｜User｜>Q2<｜Assistant｜>"
            "‖A2<｜end▁of▁sentence｜>"
        ),
        thought="<BOS><｜User｜>Q1<｜Assistant｜><think>\n‖Hm.\n</think>\n\nA1<｜end▁of▁sentence｜>",
    ),
    "deepseek_v31": Golden(
        alone="<BOS><｜User｜>Q1<｜Assistant｜></think>‖A1<EOS>",
        ruled="<BOS>Rules.<｜User｜>Q1<｜Assistant｜></think>‖A1<EOS>",
        second="<BOS>Rules.<｜User｜>Q1<｜Assistant｜></think>A1<EOS><｜User｜>Q2<｜Assistant｜></think>‖A2<EOS>",
        thought="<BOS><｜User｜>Q1<｜Assistant｜><think>‖Hm.</think>A1<EOS>",
    ),
    "gptoss": Golden(
        alone=(GPT_OSS + "<|start|>user<|message|>Q1<|end|><|start|>assistant‖<|channel|>final<|message|>A1<|return|>"),
        ruled=(
            GPT_OSS + "<|start|>developer<|message|># Instructions\n\nRules.\n\n<|end|>"
            "<|start|>user<|message|>Q1<|end|><|start|>assistant‖<|channel|>final<|message|>A1<|return|>"
        ),
        second=(
            GPT_OSS + "<|start|>developer<|message|># Instructions\n\nRules.\n\n<|end|>"
            "<|start|>user<|message|>Q1<|end|><|start|>assistant<|channel|>final<|message|>A1<|end|>"
            "<|start|>user<|message|>Q2<|end|><|start|>assistant‖<|channel|>final<|message|>A2<|return|>"
        ),
        thought=(
            GPT_OSS + "<|start|>user<|message|>Q1<|end|><|start|>assistant‖<|channel|>analysis<|message|>Hm.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>A1<|return|>"
        ),
    ),
    "glm4moe": Golden(
        alone="[gMASK]<sop><|user|>\nQ1/nothink<|assistant|>\n<think></think>‖\nA1<|user|>",
        ruled="[gMASK]<sop><|system|>\nRules.<|user|>\nQ1/nothink<|assistant|>\n<think></think>‖\nA1<|user|>",
        second=(
            "[gMASK]<sop><|system|>\nRules.<|user|>\nQ1/nothink<|assistant|>\n<think></think>\nA1"
            "<|user|>\nQ2/nothink<|assistant|>\n<think></think>‖\nA2<|user|>"
        ),
        thought="[gMASK]<sop><|user|>\nQ1<|assistant|>‖\n<think>Hm.</think>\nA1<|user|>",
    ),
    "lfm2_2_5": Golden(
        alone="<BOS><|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n‖A1<|im_end|>",
        ruled=(
            "<BOS><|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n‖A1<|im_end|>"
        ),
        second=(
            "<BOS><|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"
            "‖A2<|im_end|>"
        ),
        thought="<BOS><|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n‖<think>Hm.</think>A1<|im_end|>",
    ),
    "mistral_v1": Golden(
        alone="<BOS>[INST] Q1 [/INST]‖ A1<EOS>",
        ruled="<BOS>[INST] Rules.\n\nQ1 [/INST]‖ A1<EOS>",
        second="<BOS>[INST] Rules.\n\nQ1 [/INST] A1<EOS>[INST] Q2 [/INST]‖ A2<EOS>",
    ),
    "mistral_v3": Golden(
        alone="<BOS>[INST] Q1[/INST]‖ A1<EOS>",
        ruled="<BOS>[INST] Rules.\n\nQ1[/INST]‖ A1<EOS>",
        second="<BOS>[INST] Q1[/INST] A1<EOS>[INST] Rules.\n\nQ2[/INST]‖ A2<EOS>",
    ),
    "mistral_nemo": Golden(
        alone="<BOS>[INST]Q1[/INST]‖A1<EOS>",
        ruled="<BOS>[INST]Rules.\n\nQ1[/INST]‖A1<EOS>",
        second="<BOS>[INST]Q1[/INST]A1<EOS>[INST]Rules.\n\nQ2[/INST]‖A2<EOS>",
    ),
    "mistral_v7": Golden(
        alone="<BOS>[INST]Q1[/INST]‖A1<EOS>",
        ruled="<BOS>[SYSTEM_PROMPT]Rules.[/SYSTEM_PROMPT][INST]Q1[/INST]‖A1<EOS>",
        second="<BOS>[SYSTEM_PROMPT]Rules.[/SYSTEM_PROMPT][INST]Q1[/INST]A1<EOS>[INST]Q2[/INST]‖A2<EOS>",
    ),
    "gemma": Golden(
        alone="<BOS><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\n‖A1<end_of_turn>",
        ruled="<BOS><start_of_turn>user\nRules.\n\nQ1<end_of_turn>\n<start_of_turn>model\n‖A1<end_of_turn>",
        second=(
            "<BOS><start_of_turn>user\nRules.\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
            "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n‖A2<end_of_turn>"
        ),
    ),
    "gemma3": Golden(
        alone="<BOS><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\n‖A1<end_of_turn>",
        ruled="<BOS><start_of_turn>user\nRules.\n\nQ1<end_of_turn>\n<start_of_turn>model\n‖A1<end_of_turn>",
        second=(
            "<BOS><start_of_turn>user\nRules.\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
            "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n‖A2<end_of_turn>"
        ),
    ),
    "gemma4_v5": Golden(
        alone="<BOS><|turn>user\nQ1<turn|>\n<|turn>model\n‖A1<turn|>",
        ruled="<BOS><|turn>system\nRules.<turn|>\n<|turn>user\nQ1<turn|>\n<|turn>model\n‖A1<turn|>",
        second=(
            "<BOS><|turn>system\nRules.<turn|>\n<|turn>user\nQ1<turn|>\n<|turn>model\nA1<turn|>\n"
            "<|turn>user\nQ2<turn|>\n<|turn>model\n‖A2<turn|>"
        ),
        thought=(
            "<BOS><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nQ1<turn|>\n<|turn>model\n"
            "‖<|channel>thought\nHm.\n<channel|>A1<turn|>"
        ),
    ),
    "llama3": Golden(
        alone=(
            "<BOS><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n‖A1<|eot_id|>"
        ),
        ruled=(
            "<BOS><|start_header_id|>system<|end_header_id|>\n\nRules.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n‖A1<|eot_id|>"
        ),
        second=(
            "<BOS><|start_header_id|>system<|end_header_id|>\n\nRules.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n‖A2<|eot_id|>"
        ),
    ),
    "llama3_2": Golden(
        alone=(
            LLAMA + "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n‖A1<|eot_id|>"
        ),
        ruled=(
            LLAMA + "Rules.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n‖A1<|eot_id|>"
        ),
        second=(
            LLAMA + "Rules.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n‖A2<|eot_id|>"
        ),
    ),
    "phi3": Golden(
        alone="<|user|>\nQ1<|end|>\n<|assistant|>\n‖A1<|end|>",
        ruled="<|system|>\nRules.<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\n‖A1<|end|>",
        second=(
            "<|system|>\nRules.<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n"
            "<|user|>\nQ2<|end|>\n<|assistant|>\n‖A2<|end|>"
        ),
    ),
    "cohere": Golden(
        alone=(
            "<BOS><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q1<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>‖A1<|END_OF_TURN_TOKEN|>"
        ),
        ruled=(
            "<BOS><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Rules.<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q1<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>‖A1<|END_OF_TURN_TOKEN|>"
        ),
        second=(
            "<BOS><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Rules.<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q1<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A1<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q2<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>‖A2<|END_OF_TURN_TOKEN|>"
        ),
    ),
}

SWITCHED_OFF = "the prompt of rows without reasoning is what serving sends with enable_thinking=False"
SWITCHED_ON = "the prompt of rows with reasoning is what serving sends with {}=True"
LEFT_OUT = "the template does not write reasoning, so it is left out"
MERGED = "the chat template has no system turn, so the system text is put in front of the first user turn"

ONE, TWO, THREE = ": 1 conversation", ": 2 conversations", ": 3 conversations"

REMARKS = {
    "qwen3": [SWITCHED_OFF + THREE],
    "qwen3_5_think": [SWITCHED_OFF + THREE],
    "qwen3_6": [SWITCHED_OFF + THREE],
    "nemotron_3_nano": [SWITCHED_OFF + THREE],
    "glm4moe": [SWITCHED_OFF + THREE],
    "qwen3_5_nothink": [SWITCHED_ON.format("enable_thinking") + ONE],
    "gemma4_v5": [SWITCHED_ON.format("enable_thinking") + ONE],
    "deepseek_v31": [SWITCHED_ON.format("thinking") + ONE],
    "deepseekv3": ["the prompt of rows without reasoning ends before the '<think>\\n' that serving sends" + THREE],
    "gptoss": [],
    "lfm2_2_5": [],
    "mistral_v1": [MERGED + TWO, LEFT_OUT + ONE],
    "gemma": [MERGED + TWO, LEFT_OUT + ONE],
}
"""Of the four rows; for families that are not named, that the thought was left out."""

ALONE = demo(user("Q1"), response="A1")
RULED = demo(system("Rules."), user("Q1"), response="A1")
SECOND = demo(system("Rules."), user("Q1"), assistant("A1"), user("Q2"), response="A2")
THOUGHT = Demonstration((user("Q1"),), "A1", "rows.jsonl:1", reasoning="Hm.")


def text(tokenizer: PreTrainedTokenizerFast, renderer: Renderer, row: Demonstration) -> str:
    """Prompt ‖ response, with everything that holds for every row of every family."""
    rendered = renderer.render(row)
    prompt, response = tokenizer.decode(rendered.prompt_ids), tokenizer.decode(rendered.demo.ids)
    assert rendered.demo.ids.index(renderer.end_id) == len(rendered.demo.ids) - 1
    assert (rendered.prompt_ids + rendered.demo.ids).count(renderer.bos_id) == prompt.count("<BOS>") <= 1
    assert rendered.prompt_ids in renderer.prompt_forms(row.prompt)
    assert rendered.question == renderer.prompt_ids(row.prompt) == renderer.prompt_forms(row.prompt)[0]
    return f"{prompt}‖{response}"


@pytest.mark.parametrize("name", GOLDENS)
def test_family(name: str) -> None:
    golden, tokenizer = GOLDENS[name], family(name)
    renderer = Renderer(tokenizer)
    assert text(tokenizer, renderer, ALONE) == golden.alone
    assert text(tokenizer, renderer, RULED) == golden.ruled
    assert text(tokenizer, renderer, SECOND) == golden.second
    if golden.thought is None:
        assert renderer.render(THOUGHT) == renderer.render(ALONE)
    else:
        assert text(tokenizer, renderer, THOUGHT) == golden.thought


@pytest.mark.parametrize("name", GOLDENS)
def test_the_run_says_what_was_done_to_its_rows(name: str) -> None:
    renderer = Renderer(family(name))
    assert renderer.remarks() == ()
    for row in (ALONE, RULED, SECOND, THOUGHT):
        renderer.render(row)
    assert sorted(renderer.remarks()) == sorted(REMARKS.get(name, [LEFT_OUT + ONE]))


@pytest.mark.parametrize("name", GOLDENS)
def test_every_turn(name: str, tmp_path: Path) -> None:
    golden, tokenizer = GOLDENS[name], family(name)
    conversation = [*SECOND.prompt, assistant("A2")]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": conversation}), encoding="utf-8")
    loaded = load_demonstrations([str(tmp_path / "rows.jsonl")], every_turn=True)
    renderer = Renderer(tokenizer)
    assert [text(tokenizer, renderer, row) for row in loaded.rows] == [golden.ruled, golden.second]


@pytest.mark.parametrize("name", [name for name, golden in GOLDENS.items() if golden.thought is not None])
@pytest.mark.parametrize("response", ["<think>\nHm.\n</think>\n\nA1", "<think>Hm.</think>A1"])
def test_thought_in_the_text_is_the_thought_of_the_field(name: str, response: str) -> None:
    renderer = Renderer(family(name))
    assert renderer.render(demo(user("Q1"), response=response)) == renderer.render(THOUGHT)
    assert renderer.render(demo(user("Q1"), response="<think>\n\n</think>\n\nA1")) == renderer.render(ALONE)


@pytest.mark.parametrize("name", ["qwen3_5_think", "nemotron_3_nano", "deepseekv3", "deepseek_v31"])
def test_prompt_that_opens_a_thought_lets_the_closing_tag_end_it(name: str) -> None:
    renderer = Renderer(family(name))
    assert renderer.render(demo(user("Q1"), response="Hm.\n</think>\n\nA1")) == renderer.render(THOUGHT)


@pytest.mark.parametrize("name", ["qwen2_5", "mistral_v3", "gemma3", "llama3", "phi3", "cohere"])
def test_thought_in_the_text_stays_there_where_the_family_writes_none(name: str) -> None:
    tokenizer, thought = family(name), "<think>\nHm.\n</think>\n\n"
    written = text(tokenizer, Renderer(tokenizer), demo(user("Q1"), response=thought + "A1"))
    head, response = GOLDENS[name].alone.split("‖")
    assert written == head + "‖" + response.replace("A1", thought + "A1")


TRAINING = [
    file.stem.removesuffix("_training")
    for file in (Path(trl.__file__).parent / "chat_templates").glob("*_training.jinja")
    if file.stem.removesuffix("_training") in GOLDENS
]


@pytest.mark.parametrize("name", TRAINING)
def test_generation_marks_change_nothing(name: str) -> None:
    golden, tokenizer = GOLDENS[name], family(f"{name}_training")
    assert "{% generation %}" in tokenizer.chat_template.replace("{%-", "{%").replace("-%}", "%}")
    renderer = Renderer(tokenizer)
    assert text(tokenizer, renderer, ALONE) == golden.alone
    assert text(tokenizer, renderer, RULED) == golden.ruled
    if golden.thought is not None:
        assert text(tokenizer, renderer, THOUGHT) == golden.thought


@pytest.mark.parametrize("name", ["mistral_v1", "mistral_v3", "mistral_nemo", "mistral_v7", "gemma", "gemma3"])
def test_families_of_sentencepiece_tokenizers(name: str) -> None:
    golden, tokenizer = GOLDENS[name], family(name, metaspace=True)
    for row, expected in ((ALONE, golden.alone), (RULED, golden.ruled), (SECOND, golden.second)):
        rendered = Renderer(tokenizer).render(row)
        assert tokenizer.decode([*rendered.prompt_ids, *rendered.demo.ids]) == expected.replace("‖", "")


MORE = [
    "cohere2",
    "deepseek_r1_distill",
    "diffusion_gemma",
    "gemma4",
    "lfm2",
    "llama3_1",
    "muse_glimmer",
    "nemotron_3_5_lightning",
    "nemotron_3_super",
    "nemotron_3_ultra",
    "qwen2_5_vl",
    "qwen3_8",
    "qwen3_instruct_2507",
    "qwen3_vl",
]


@pytest.mark.parametrize("name", MORE)
def test_more_families_have_what_holds_for_all(name: str) -> None:
    tokenizer = family(name)
    renderer = Renderer(tokenizer)
    end = tokenizer.decode([renderer.end_id])
    for row in (ALONE, RULED, SECOND):
        prompt, response = text(tokenizer, renderer, row).split("‖")
        assert response.endswith(row.response + end) or name == "cohere2"  # which has a mark in between
        assert all(message["content"] in prompt for message in row.prompt)
    if "Hm." in text(tokenizer, renderer, THOUGHT):
        in_text = demo(user("Q1"), response="<think>\nHm.\n</think>\n\nA1")
        assert text(tokenizer, renderer, in_text) == text(tokenizer, renderer, THOUGHT)
    else:
        assert LEFT_OUT + ONE in renderer.remarks()


def test_old_thoughts_are_written_as_the_template_does_it() -> None:
    for name, old in (
        ("qwen3", ""),
        ("qwen3_8", "<think>\nHm.\n</think>\n\n"),
        ("nemotron_3_nano", "<think></think>\n"),
    ):
        tokenizer = family(name)
        renderer = Renderer(tokenizer)
        in_text = [user("Q1"), assistant("<think>\nHm.\n</think>\n\nA1"), user("Q2")]
        in_field = [user("Q1"), {**assistant("A1"), "reasoning_content": "Hm."}, user("Q2")]
        assert renderer.prompt_ids(in_text) == renderer.prompt_ids(in_field)
        assert f"<|im_start|>assistant\n{old}A1<|im_end|>" in tokenizer.decode(renderer.prompt_ids(in_text))


def test_response_holds_every_mark_up_to_the_one_that_the_model_stops_on() -> None:
    # Command R7B ends a response with two marks; its models stop on the second, which is their EOS token.
    tokenizer = family("cohere2", eos="<|END_OF_TURN_TOKEN|>")
    renderer = Renderer(tokenizer)
    assert tokenizer.decode(renderer.render(ALONE).demo.ids) == "A1<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert renderer.stop_ids == {tokenizer.eos_token_id}
