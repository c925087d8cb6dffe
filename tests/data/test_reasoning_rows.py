"""Rows with reasoning, tools or documents on their way through a run: held out, scored, selected, evaluated."""

import json
from pathlib import Path

import pytest
from helpers.chats import assistant, family, user, with_plain_tags
from helpers.rewards import Counting

from demotune.config.commands import RowReading
from demotune.config.evaluation import EvaluationConfig
from demotune.config.methods import SFTConfig
from demotune.data.intake import prepare
from demotune.data.rendering import Renderer, content_key
from demotune.evaluation.eval_set import read_eval_set
from demotune.evaluation.subjects import Subject
from demotune.records import Context, Demonstration, RenderedDemonstration, Response
from demotune.rewards.completions import Asked, completions_for
from demotune.rewards.score import score
from demotune.rewards.select import Choice, select

TOOLS = Context(tools=({"type": "function", "function": {"name": "forecast"}},))
PROMPT = (user("Q1"),)


def test_a_question_is_held_out_with_and_without_reasoning(tmp_path: Path) -> None:
    # Qwen3 has one prompt for answers with a thought and another one for answers without.
    rows = [
        {"prompt": f"Q{number}", "completion": response}
        for number in range(40)
        for response in ("A1", "<think>\nHm.\n</think>\n\nA1")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = SFTConfig(model="m", output="o", data=(str(tmp_path / "rows.jsonl"),), eval_share=0.3)
    intake = prepare(config, Renderer(family("qwen3")))

    assert len({row.prompt_ids for row in intake.train}) == 2 * len({row.question for row in intake.train})
    assert {row.question for row in intake.train}.isdisjoint(row.question for row in intake.heldout)
    assert len(intake.train) + len(intake.heldout) == 80
    assert intake.heldout
    said = "the prompt of rows without reasoning is what serving sends with enable_thinking=False: 40 conversations"
    assert said in intake.notes


def test_row_of_an_evaluation_is_known_from_training_whichever_way_it_was_written() -> None:
    renderer = Renderer(family("qwen3"))
    subject = Subject("m", "model", Path("m"), renderer)
    for response in ("A1", "<think>Hm.</think>A1"):
        trained = renderer.render(Demonstration(PROMPT, response, ""))
        subject.__dict__["_trained"] = ((renderer, frozenset({content_key(trained.prompt_ids, ())})),)
        assert subject.trained_on(PROMPT)
        assert not subject.trained_on((user("Q2"),))
        assert not subject.trained_on(PROMPT, TOOLS)


def test_reward_reads_the_very_ids_that_were_drawn_in_either_form() -> None:
    renderer = Renderer(family("qwen3"))
    drawn = Response((*renderer.render(Demonstration(PROMPT, "A1", "")).demo.ids,), finished=True)
    for ids in renderer.prompt_forms(PROMPT):
        (read,) = completions_for(Counting([], renderer=renderer), renderer, [Asked(PROMPT, ids)], [drawn])
        assert read is not None
        assert (read.prompt_ids, read.response) == (ids, drawn)


@pytest.mark.parametrize("name", ["gptoss", "muse_glimmer", "gemma4_v5", "qwen3_5_think", "deepseek_v31"])
def test_reward_of_another_vocabulary_reads_thought_and_answer(name: str) -> None:
    policy, reward = Renderer(family(name)), Counting([], renderer=Renderer(family("qwen3")))
    thought = policy.render(Demonstration(PROMPT, "A1", "", "Hm."))
    plain = policy.render(Demonstration(PROMPT, "A1", ""))
    asked = [Asked(PROMPT, thought.prompt_ids), Asked(PROMPT, plain.prompt_ids)]
    read = completions_for(reward, policy, asked, [thought.demo, plain.demo])
    rows = [reward.renderer.render(Demonstration(PROMPT, "A1", "", reasoning)) for reasoning in ("Hm.", "")]
    assert [(one.prompt_ids, one.response) for one in read if one] == [(row.prompt_ids, row.demo) for row in rows]


def test_thought_whose_opening_tag_is_in_the_prompt_is_one_for_the_reward_too() -> None:
    tokenizer = with_plain_tags("deepseekv3")
    policy, reward = Renderer(tokenizer), Counting([], renderer=Renderer(with_plain_tags("qwen3")))
    drawn = policy.render(Demonstration(PROMPT, "A1", "", "Hm."))
    assert policy.decode(drawn.demo.ids) == "Hm.\n</think>\n\nA1"
    (read,) = completions_for(reward, policy, [Asked(PROMPT, drawn.prompt_ids)], [drawn.demo])
    row = reward.renderer.render(Demonstration(PROMPT, "A1", "", "Hm."))
    assert read is not None
    assert (read.prompt_ids, read.response) == (row.prompt_ids, row.demo)


def test_prompt_of_several_responses_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, compared = Renderer(family("qwen3")), []
    forms = renderer.prompt_forms
    monkeypatch.setattr(renderer, "prompt_forms", lambda *given: compared.append(given) or forms(*given))
    row = renderer.render(Demonstration(PROMPT, "A1", ""))
    asked = [Asked(PROMPT, row.prompt_ids), Asked((user("Q2"),), renderer.prompt_ids((user("Q2"),)))] * 4
    assert len(completions_for(Counting([], renderer=renderer), renderer, asked, [row.demo] * 8)) == 8
    assert len(compared) == 2


DEMONSTRATION = Demonstration(PROMPT, "A1", "rows.jsonl:1", "Hm.", TOOLS)
CHOSEN, REJECTED = (
    {**assistant(text), "reasoning_content": thought} for text, thought in (("A1", "Hm."), ("A2", "Hm?"))
)


@pytest.fixture
def demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in the current folder with one demonstration, of which its prompt, thought and tools are to be kept."""
    monkeypatch.chdir(tmp_path)
    return write("rows.jsonl", {"messages": [*PROMPT, CHOSEN], "tools": TOOLS.tools})


@pytest.fixture
def preferences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return write("rows.jsonl", {"prompt": PROMPT, "chosen": [CHOSEN], "rejected": [REJECTED], "tools": TOOLS.tools})


def write(file: str, row: dict[str, object]) -> str:
    Path(file).write_text(json.dumps(row) + "\n", encoding="utf-8")
    return file


def rendered(reward: Counting) -> list[RenderedDemonstration]:
    sides = [("A1", "Hm."), ("A2", "Hm?")][: len(reward.read)]
    return [reward.renderer.render(Demonstration(PROMPT, text, "", thought, TOOLS)) for text, thought in sides]


def test_selected_rows_keep_what_they_have_beside_their_text(demonstrations: str) -> None:
    reward = Counting([], renderer=Renderer(family("qwen3")))
    select(reward, [demonstrations], RowReading(), Choice(top=1), Path("kept.jsonl"))
    assert [(one.prompt_ids, one.response) for one in reward.read] == [
        (row.prompt_ids, row.demo) for row in rendered(reward)
    ]
    row = json.loads(Path("kept.jsonl").read_text(encoding="utf-8"))
    assert row["completion"] == [{**assistant("A1"), "reasoning_content": "Hm."}]
    assert row["tools"] == [{"type": "function", "function": {"name": "forecast"}}]
    assert "documents" not in row


def test_scored_preferences_keep_what_they_have_beside_their_text(
    preferences: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = Counting([], renderer=Renderer(family("qwen3_5_nothink")))
    score(reward, [preferences], RowReading(), Path("scored.jsonl"))
    assert [(one.prompt_ids, one.response) for one in reward.read] == [
        (row.prompt_ids, row.demo) for row in rendered(reward)
    ]
    row = json.loads(Path("scored.jsonl").read_text(encoding="utf-8"))
    assert row["chosen"] == [{**assistant("A1"), "reasoning_content": "Hm."}]
    assert row["rejected"] == [{**assistant("A2"), "reasoning_content": "Hm?"}]
    assert row["tools"] == [{"type": "function", "function": {"name": "forecast"}}]
    said = "the prompt of rows with reasoning is what serving sends with enable_thinking=True: 2 conversations"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["demonstrations", "preferences"])
def test_evaluated_rows_keep_what_they_have_beside_their_text(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = EvaluationConfig(model="m", data=(request.getfixturevalue(kind),), output=str(tmp_path))
    renderer = Renderer(family("qwen3"))
    subject = Subject("m", "model", Path("m"), renderer)
    subject.__dict__.update(_trained=(), longest=None, runs_without_rows=())
    found = read_eval_set(config, [subject], tmp_path / "quarantine.jsonl")

    (row,), (view,) = found.rows, found.rendered["m"]
    assert row.demo == DEMONSTRATION
    assert view.demo == renderer.render(DEMONSTRATION)
    if kind == "preferences":
        assert view.rejected == renderer.render(Demonstration(PROMPT, "A2", "rows.jsonl:1", "Hm?", TOOLS))
