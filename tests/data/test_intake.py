"""Intake: from files to rows to train on and rows held out; nothing is lost without being named."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from demotune.common.errors import DemotuneError
from demotune.common.json_records import write_records
from demotune.config.methods import SFTConfig
from demotune.data import BadRow
from demotune.data.intake import Intake, prepare
from demotune.data.rendering import Renderer, content_key

WORDS = [f"n{number}" for number in range(300)]


def renderer(*, bos: bool = False) -> Renderer:
    """One token a word; a prompt is its words (after <s> with `bos`), a response its words and </s>."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Renderer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"),
        "{prompt}",
    )


EOS, BOS = 2, 1


def ids(text: str) -> tuple[int, ...]:
    """Token ids by hand: n0 is 3, n1 is 4, ..."""
    return tuple(int(word[1:]) + 3 for word in text.split())


def write(path: Path, rows: Iterable[tuple[str, str]]) -> str:
    lines = [json.dumps({"prompt": prompt, "completion": response}) + "\n" for prompt, response in rows]
    path.write_text("".join(lines))
    return str(path)


def config(source: str, **options: object) -> SFTConfig:
    return SFTConfig(**{"model": "m", "output": "o", "data": (source,), "eval_share": 0.0} | options)  # type: ignore[arg-type]


def hundred(path: Path, count: int = 100) -> str:
    return write(path, [(f"n{number}", "n0") for number in range(count)])


def prompts(rows: Iterable[object]) -> list[tuple[int, ...]]:
    return [row.prompt_ids for row in rows]  # type: ignore[attr-defined]


def reasons(intake: Intake) -> list[tuple[str, str]]:
    return [(Path(row.source).name, row.reason) for row in intake.bad_rows]


def test_rows_become_ids_and_counts(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [("n1 n2", "n3"), ("n4", "n5 n6")])
    intake = prepare(config(source), renderer())

    assert prompts(intake.train) == [ids("n1 n2"), ids("n4")]
    assert [row.demo.ids for row in intake.train] == [(*ids("n3"), EOS), (*ids("n5 n6"), EOS)]
    assert not intake.heldout
    assert not intake.bad_rows
    assert list(intake.data_hashes) == [source]
    assert "train: 2 rows; prompt tokens mean 1.5, longest 2; response tokens mean 2.5, longest 3" in intake.notes
    assert "bad rows: 0 of 2 read" in intake.notes
    assert renderer().description in intake.notes
    assert any(source in note for note in intake.notes)


def test_row_that_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [("n1", "n2"), ("n3 </s>", "n4"), ("n5", "n6 </s> n7")])
    intake = prepare(config(source, max_bad_share=1.0), renderer())
    assert prompts(intake.train) == [ids("n1")]
    assert reasons(intake) == [("d.jsonl:2", "control token in prompt"), ("d.jsonl:3", "control token in response")]
    assert "bad rows: 2 of 3 read (control token in prompt 1, control token in response 1)" in intake.notes


def test_same_ids_twice_are_one_row(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [("n1  n2", "n3"), ("n1 n2", "n3"), ("n1 n2", "n4")])
    intake = prepare(config(source, max_bad_share=1.0), renderer())
    assert len(intake.train) == 2
    assert reasons(intake) == [("d.jsonl:2", "duplicate")]


LONG = [("n1 n2 n3", "n4"), ("n1 n2 n3 n4", "n5"), ("n1", "n2 n3 n4 n5 n6")]
"""With the end token 5, 6 and 7 tokens."""


def test_overlong_rows_are_quarantined(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", LONG)
    intake = prepare(config(source, max_length=5, max_bad_share=1.0), renderer())
    assert prompts(intake.train) == [ids("n1 n2 n3")]
    assert reasons(intake) == [("d.jsonl:2", "over-long"), ("d.jsonl:3", "over-long")]
    assert intake.bad_rows[0].detail == "4 prompt + 2 response tokens, max_length is 5"


def test_overlong_prompts_lose_their_oldest_tokens(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", LONG)
    intake = prepare(config(source, max_length=5, overlong="truncate-prompt", max_bad_share=1.0), renderer())
    assert prompts(intake.train) == [ids("n1 n2 n3"), ids("n2 n3 n4")]
    cut = intake.train[1]
    assert cut.demo.ids == (*ids("n5"), EOS)
    assert cut.demo.finished
    assert cut.key == content_key(cut.prompt_ids, cut.demo.ids)
    # The response of the third row alone takes 6 of 5 tokens.
    assert reasons(intake) == [("d.jsonl:3", "over-long")]
    assert "1 row over 5 tokens cut (truncate-prompt)" in intake.notes


def test_overlong_prompts_keep_their_first_bos_token(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [("n1 n2 n3 n4", "n5"), ("n1 n2", "n3 n4 n5")])
    intake = prepare(config(source, max_length=5, overlong="truncate-prompt", max_bad_share=1.0), renderer(bos=True))
    assert prompts(intake.train) == [(BOS, *ids("n3 n4"))]
    # Beside 4 response tokens there is room for <s> only, and that is no prompt.
    assert reasons(intake) == [("d.jsonl:2", "over-long")]


def test_overlong_responses_are_cut_and_unfinished(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [*LONG, ("n1 n2 n3 n4 n5", "n6")])
    intake = prepare(config(source, max_length=5, overlong="truncate-response", max_bad_share=1.0), renderer())
    assert [(row.demo.ids, row.demo.finished) for row in intake.train] == [
        ((*ids("n4"), EOS), True),
        (ids("n5"), False),
        (ids("n2 n3 n4 n5"), False),
    ]
    assert intake.train[2].key == content_key(ids("n1"), ids("n2 n3 n4 n5"))
    assert reasons(intake) == [("d.jsonl:4", "over-long")]
    assert "2 rows over 5 tokens cut (truncate-response)" in intake.notes


def test_max_rows_counts_good_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [("n1", "n2"), ("n3", "n4 </s>"), ("n5", "n6"), ("n7", "n8"), ("n9", "n9")])
    intake = prepare(config(source, max_rows=2, max_bad_share=1.0), renderer())
    assert prompts(intake.train) == [ids("n1"), ids("n5")]
    assert "2 rows not used (max_rows 2)" in intake.notes


def test_eval_share_holds_out_by_prompt_whatever_the_order(tmp_path: Path) -> None:
    rows = [(f"n{number}", f"n{response}") for number in range(200) for response in (0, 1)]
    intake = prepare(config(write(tmp_path / "a.jsonl", rows), eval_share=0.25, max_eval_rows=400), renderer())
    # 200 prompts at 0.25: 50 with a standard deviation of 6.1.
    assert 30 <= len(set(prompts(intake.heldout))) <= 70
    assert len(intake.train) + len(intake.heldout) == 400
    assert not set(prompts(intake.train)) & set(prompts(intake.heldout))

    back = write(tmp_path / "b.jsonl", rows[:300][::-1])
    again = prepare(config(back, eval_share=0.25, max_eval_rows=400), renderer())
    remaining = {ids(prompt) for prompt, _ in rows[:300]}
    assert set(prompts(again.heldout)) == set(prompts(intake.heldout)) & remaining
    assert prompts(again.train) == [p for p in prompts(intake.train) if p in remaining][::-1]


def test_surplus_of_eval_share_goes_back_to_training(tmp_path: Path) -> None:
    source = hundred(tmp_path / "d.jsonl")
    many = prepare(config(source, eval_share=0.5, max_eval_rows=100), renderer())
    few = prepare(config(source, eval_share=0.5, max_eval_rows=7), renderer())
    assert len(many.heldout) > 7
    assert len(few.heldout) == 7
    assert set(prompts(few.heldout)) < set(prompts(many.heldout))
    assert len(few.train) == 93
    assert any("eval_share 0.5, at most 7 rows" in note for note in few.notes)


def test_surplus_with_a_held_out_prompt_is_dropped(tmp_path: Path) -> None:
    rows = [(f"n{prompt}", f"n{response}") for prompt in (1, 2) for response in range(10)]
    intake = prepare(config(write(tmp_path / "d.jsonl", rows), eval_share=0.0001, max_eval_rows=4), renderer())
    assert len(intake.heldout) == 4
    assert len(set(prompts(intake.heldout))) == 1
    assert len(intake.train) == 10
    assert not set(prompts(intake.train)) & set(prompts(intake.heldout))
    assert any("6 training rows dropped because the prompt is held out" in note for note in intake.notes)


@pytest.mark.parametrize(
    ("count", "share", "heldout"),
    [(10, 1e-9, 1), (9, 1e-9, 0), (10, 0.0, 0)],
)
def test_ten_rows_hold_out_at_least_one(tmp_path: Path, count: int, share: float, heldout: int) -> None:
    intake = prepare(config(hundred(tmp_path / "d.jsonl", count), eval_share=share), renderer())
    assert len(intake.heldout) == heldout
    assert len(intake.train) == count - heldout


def test_something_stays_to_train_on(tmp_path: Path) -> None:
    """Ten prompts that are held out of a hundred: alone, nine of them are, and the last one stays."""
    source = hundred(tmp_path / "d.jsonl")
    nine, ten = (
        prompts(prepare(config(source, eval_share=0.5, max_eval_rows=count), renderer()).heldout) for count in (9, 10)
    )
    (last,) = [prompt for prompt in ten if prompt not in nine]
    chosen = [f"n{number}" for number in range(100) if ids(f"n{number}") in ten]
    alone = write(tmp_path / "ten.jsonl", [(prompt, "n1") for prompt in chosen])
    intake = prepare(config(alone, eval_share=0.5), renderer())
    assert prompts(intake.train) == [last]
    assert len(intake.heldout) == 9
    one_prompt = write(tmp_path / "one.jsonl", [("n1", f"n{response}") for response in range(12)])
    intake = prepare(config(one_prompt, eval_share=0.5), renderer())
    assert (len(intake.train), len(intake.heldout)) == (12, 0)


def test_eval_data_are_the_held_out_rows_and_their_prompts_leave_training(tmp_path: Path) -> None:
    source = hundred(tmp_path / "d.jsonl", 20)
    held = write(tmp_path / "e.jsonl", [("n5", "n9"), ("n6", "n0"), ("n200", "n1"), ("n201", "n1 </s>")])
    options = {"eval_data": (held,), "eval_share": 0.5, "max_bad_share": 0.1}
    intake = prepare(config(source, **options), renderer())
    assert prompts(intake.heldout) == [ids("n5"), ids("n6"), ids("n200")]
    assert prompts(intake.train) == [ids(f"n{number}") for number in range(20) if number not in (5, 6)]
    assert reasons(intake) == [("e.jsonl:4", "control token in response")]
    assert set(intake.data_hashes) == {source, held}
    assert any(
        "3 of 3 rows of eval_data; 2 training rows dropped because the prompt is held out" in note
        for note in intake.notes
    )

    fewer = prepare(config(source, max_eval_rows=2, **options), renderer())
    assert len(fewer.heldout) == 2
    assert set(prompts(fewer.heldout)) < set(prompts(intake.heldout))
    assert [*fewer.train] == [
        *intake.train
    ]  # prompts of all eval_data stay out of training, not only of the chosen rows


def test_max_rows_leaves_eval_data_alone(tmp_path: Path) -> None:
    held = write(tmp_path / "e.jsonl", [("n50", "n1"), ("n51", "n1"), ("n52", "n1")])
    intake = prepare(config(hundred(tmp_path / "d.jsonl", 5), eval_data=(held,), max_rows=1), renderer())
    assert (len(intake.train), len(intake.heldout)) == (1, 3)


def test_too_many_bad_rows_stop_the_run_and_are_written_down(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [("n1", "n2"), ("n3", "n4 </s>"), ("n5 n6 n7", "n8"), ("n9", "n9")])
    quarantine = tmp_path / "run" / "quarantine.jsonl"
    with pytest.raises(DemotuneError) as caught:
        prepare(config(source, max_length=4, max_bad_share=0.4), renderer(), quarantine)
    message = str(caught.value)
    assert "2 of 4 rows read are bad (50.0%, max_bad_share is 40.0%)" in message
    assert "control token in response 1, over-long 1" in message
    for help_with in (str(quarantine), "--max-bad-share", "--max-length", "--overlong"):
        assert help_with in message
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [(Path(line["source"]).name, line["reason"]) for line in lines] == [
        ("d.jsonl:2", "control token in response"),
        ("d.jsonl:3", "over-long"),
    ]
    assert all(line.keys() == {"source", "reason", "detail"} for line in lines)

    quarantine.unlink()
    assert len(prepare(config(source, max_length=4, max_bad_share=0.5), renderer(), quarantine).train) == 2
    assert [json.loads(line) for line in quarantine.read_text().splitlines()] == lines


def test_bad_rows_of_eval_data_count_too(tmp_path: Path) -> None:
    source = hundred(tmp_path / "d.jsonl", 6)
    held = write(tmp_path / "e.jsonl", [("n100", "n1"), ("n101", "</s>"), ("n102", "</s>"), ("n103", "n1")])
    with pytest.raises(DemotuneError, match=r"2 of 10 rows read are bad \(20\.0%"):
        prepare(config(source, eval_data=(held,), max_bad_share=0.19), renderer())
    prepare(config(source, eval_data=(held,), max_bad_share=0.2), renderer())


def test_max_rows_does_not_hide_bad_rows(tmp_path: Path) -> None:
    # One row in two cannot be rendered; of 100 only the first 4 are looked at.
    rows = [(f"n{number}", "n0 </s>" if number % 2 else "n0") for number in range(100)]
    source = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(DemotuneError, match="max_bad_share is 30"):
        prepare(config(source, max_rows=2, max_bad_share=0.3), renderer())


def test_every_turn_counts_as_a_row(tmp_path: Path) -> None:
    # Four demonstrations in one row, of 3, 4, 5 and 6 tokens: an earlier turn and its reply make one word.
    turns = [{"role": role, "content": "n1"} for role in ("user", "assistant") * 4]
    talk = tmp_path / "t.jsonl"
    talk.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(DemotuneError, match=r"2 of 4 rows read are bad \(50.0%"):
        prepare(config(str(talk), every_turn=True, max_length=4, max_bad_share=0.49), renderer())
    intake = prepare(config(str(talk), every_turn=True, max_length=4, max_bad_share=0.5), renderer())
    assert "bad rows: 2 of 4 read (over-long 2)" in intake.notes


@pytest.mark.parametrize("bad", [False, True])
def test_no_row_left_is_an_error(tmp_path: Path, bad: bool) -> None:
    source = write(tmp_path / "d.jsonl", [("n1", "n2 </s>" if bad else "n2")])
    held = write(tmp_path / "e.jsonl", [("n1", "n3")])
    quarantine = tmp_path / "quarantine.jsonl"
    with pytest.raises(DemotuneError, match="no row is left to train on") as caught:
        prepare(config(source, eval_data=(held,), max_bad_share=1.0), renderer(), quarantine)
    expected = "control token in response 1" if bad else "1 training row dropped because the prompt is held out"
    assert expected in str(caught.value)
    assert len(quarantine.read_text().splitlines()) == bad


def test_quarantine_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.write_text("old\n")
    write_records(path, [BadRow("a:1", "over-long", "ü"), BadRow("b:2", "duplicate", "x")])
    expected: list[Mapping[str, str]] = [
        {"source": "a:1", "reason": "over-long", "detail": "ü"},
        {"source": "b:2", "reason": "duplicate", "detail": "x"},
    ]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == expected
    assert list(tmp_path.iterdir()) == [path]


def test_sources_weights_and_columns_reach_the_loader(tmp_path: Path) -> None:
    sources = tuple(str(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    for source, first in zip(sources, (0, 100), strict=True):
        rows = [{"frage": f"n{number}", "antwort": "n0"} for number in range(first, first + 8)]
        Path(source).write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"data": sources, "data_weights": (1.0, 0.5), "columns": "prompt=frage,response=antwort"}
    intake = prepare(config("", **options), renderer())
    assert len(intake.train) == 12
    assert sum(row.prompt_ids < ids("n100") for row in intake.train) == 8


def test_seed_decides_the_mixture(tmp_path: Path) -> None:
    sources = (hundred(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", [("n200", "n1")]))
    mixtures = [
        prompts(prepare(config("", data=sources, data_weights=(2.0, 1.0), seed=seed), renderer()).train)
        for seed in (0, 0, 1)
    ]
    assert mixtures[0] == mixtures[1] != mixtures[2]


def test_a_cut_prompt_keeps_its_question(tmp_path: Path) -> None:
    """A question with answers of three lengths is cut in three ways, and stays one: all or none of it is held out."""
    answers = [(f"n{number}", f"n{number} n200", f"n{number} n201 n202") for number in range(12)]
    rows = [(f"n100 n101 n102 n{number}", answer) for number in range(12) for answer in answers[number]]
    source = write(tmp_path / "rows.jsonl", rows)
    cut = config(source, max_length=5, overlong="truncate-prompt", max_bad_share=1.0, eval_share=0.3)
    intake = prepare(cut, renderer())
    assert len(intake.train) + len(intake.heldout) == 36
    assert intake.heldout
    asked = {row.question for row in intake.heldout}
    assert asked.isdisjoint(row.question for row in intake.train)
    assert {len(question) for question in asked} == {4}
