"""Answers apart from thoughts: found by token ids, hand-worked; runs whose rewards and pair losses see answers only."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers.micro import tiny_lm
from helpers.tiny import save_tiny, tiny_tokenizer
from helpers.tiny_runs import RFT, SMALL, STAGED
from transformers import LlamaForCausalLM

from demotune import DemotuneError, IRFTConfig, RFTConfig, load_reward, load_run, run
from demotune.common.files import read_rows
from demotune.common.json_records import from_json, write_records
from demotune.conclusion import conclude
from demotune.config.config_files import load_config
from demotune.models.batches import packed_tokens
from demotune.models.logprobs import naive_response_logps
from demotune.models.reference_logps import pair_logps
from demotune.pipeline import prepare_run
from demotune.records import Completion, Pair, Response
from demotune.rewards.answer_only import (
    AnswerMarker,
    answer_of,
    answers_of,
    equal_answers,
    find_marker,
    finished_by_answer,
    thought_tokens,
    with_thoughts,
    without_thoughts,
)
from demotune.rewards.shortcuts import ShortcutAudit, audit_run, audit_shortcuts
from demotune.runs.folder import RunFolder
from demotune.runs.rows import SampleRow
from demotune.training.co_training import TaughtPairs
from demotune.training.contrast import contrast_pairs
from demotune.training.methods.irft import warn_about_pairs
from demotune.training.pairs import training_pairs, triplets
from demotune.training.stage import Stage

MARK, SPACE, END = 8, 9, 2
MARKER = AnswerMarker((MARK, MARK), frozenset({SPACE}), END)


@pytest.mark.parametrize(
    ("ids", "thought"),
    [
        ((5, MARK, MARK, 6, END), 3),
        ((MARK, MARK, 6), 2),  # nothing thought
        ((5, MARK, MARK, 6, MARK, MARK, 7, END), 6),  # the last one counts
        ((5, MARK, MARK, MARK, 7), 4),
        ((5, MARK, MARK, SPACE, SPACE, 6, SPACE, END), 5),
        ((5, MARK, MARK, END), 3),  # an empty answer that ended by itself
        ((5, MARK, MARK), None),
        ((5, MARK, MARK, SPACE), None),
        ((5, MARK, 6, MARK, END), None),
        ((5,), None),
    ],
)
def test_the_answer_follows_the_last_marker(ids: tuple[int, ...], thought: int | None) -> None:
    assert thought_tokens(ids, MARKER) == thought
    given = Response(ids, finished=ids[-1] == END)
    if thought is None:
        assert answer_of(given, MARKER) == Response((END,), finished=False)
        assert finished_by_answer(given, MARKER) == Response(ids, finished=False)
    else:
        assert answer_of(given, MARKER) == Response(ids[thought:], given.finished)
        assert finished_by_answer(given, MARKER) is given


def test_a_demonstration_without_the_marker_is_an_answer_and_a_sample_without_it_has_none() -> None:
    demo, thinking = Response((6, 7, END), True), Response((5, MARK, MARK, 7, END), True)
    pair = Pair("a", (3, 4), demo, thinking)
    assert with_thoughts(pair, MARKER).sides == (((3, 4), (6, 7, END)), ((3, 4, 5, MARK, MARK), (7, END)))
    assert without_thoughts(pair, MARKER).sides == (((3, 4), (6, 7, END)), ((3, 4), (7, END)))
    assert without_thoughts(pair, None) is pair
    assert with_thoughts(pair, MARKER).answers == without_thoughts(pair, MARKER)
    assert with_thoughts(Pair("a", (3, 4), Response((7, END), True), thinking), MARKER).equal
    assert not with_thoughts(pair, MARKER).equal
    assert equal_answers(Pair("a", (3, 4), Response((7, END), True), thinking), MARKER)
    assert not equal_answers(Pair("a", (3, 4), demo, demo), MARKER)  # a sample without the marker gives no answer
    assert equal_answers(Pair("a", (3, 4), demo, demo), None)
    swapped = Pair("a", (3, 4), thinking, demo)
    assert with_thoughts(swapped, MARKER).sides == (((3, 4, 5, MARK, MARK), (7, END)), ((3, 4), (6, 7, END)))
    assert without_thoughts(swapped, MARKER).sides == (((3, 4), (7, END)), ((3, 4), (END,)))
    assert packed_tokens(pair) == 2 + 3 + 5
    assert packed_tokens(with_thoughts(pair, MARKER)) == 2 + 2 + 3 + 5
    rows = [Completion((3,), thinking), Completion((3,), demo)]
    assert [row.response.ids for row in answers_of(rows, MARKER)] == [(7, END), (END,)]
    assert answers_of(rows, None) == rows


def test_log_probabilities_of_a_pair_are_those_of_its_answers_after_its_thoughts() -> None:
    """The definition, summed over the tokens of the answer; nothing of the thought is in it."""
    model = tiny_lm("llama")
    pair = with_thoughts(
        Pair("a", (3, 4), Response((6, 7, END), True), Response((5, MARK, MARK, 7, END), True)), MARKER
    )
    ((demo, sample),) = pair_logps(model, [pair], bf16=False)
    assert demo == pytest.approx(float(naive_response_logps(model, (3, 4), (6, 7, END)).sum()), abs=1e-4)
    whole = naive_response_logps(model, (3, 4), (5, MARK, MARK, 7, END))
    assert sample == pytest.approx(float(whole[3:].sum()), abs=1e-4)


def test_a_marker_whose_tokens_depend_on_the_text_is_refused() -> None:
    """The tiny tokenizer has learned to merge letters of a few words."""
    tokenizer = tiny_tokenizer()
    end = tokenizer.eos_token_id
    found = find_marker(tokenizer, "</think>", end)
    assert found is not None
    assert tokenizer.decode(found.ids) == "</think>"
    assert {tokenizer.decode([token]) for token in found.blank} >= {" ", "\n"}
    tokenizer.add_tokens(["a</", "[end]"])
    with pytest.raises(DemotuneError, match=r"answer_after '</think>' cannot be found by its tokens.*'a</think>'"):
        find_marker(tokenizer, "</think>", end)
    of_one_token = find_marker(tokenizer, "[end]", end)
    assert of_one_token is not None
    assert len(of_one_token.ids) == 1
    assert find_marker(tokenizer, None, end) is None
    with pytest.raises(DemotuneError, match="answer_after '' cannot be found"):
        find_marker(tokenizer, "", end)


# Runs ----------------------------------------------------------------------------------------------------------------

THINK = "q"
"""A random model writes a letter in some of its samples, if they are long, and in others not."""
LONG = 100


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers-only")
    save_tiny(folder / "start")
    rows = [{"prompt": f"say {number}", "completion": f"{number}, of course"} for number in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def fields(place: Path, name: str, **own: Any) -> dict[str, Any]:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return {**where, "answer_after": THINK, **own}


def side_ids(completion: Completion) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return completion.prompt_ids, completion.response.ids


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "stages" / "00" / "samples.jsonl.gz")


def test_irft_trains_on_pairs_with_an_answer_and_leaves_thoughts_free(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(IRFTConfig(**fields(place, "irft", **STAGED | {"stages": 1, "max_new_tokens": LONG})))
    marker = find_marker(tiny_tokenizer(), THINK, END)
    assert marker is not None
    rows = [row for row in samples_of(result.run_folder) if not row["heldout"]]
    answered = [row for row in rows if thought_tokens(row["sample_ids"], marker) is not None]
    assert 2 < len(answered) < len(rows)  # or nothing would show
    assert not any(row["finished"] for row in rows if row not in answered)
    references = read_rows(result.run_folder / "stages" / "00" / "reference_logps.jsonl.gz")
    assert [row["key"] for row in references[: len(answered)]] == [row["key"] for row in answered]
    model = LlamaForCausalLM.from_pretrained(place / "start")
    for row, found in zip(answered, references, strict=False):
        with torch.no_grad():
            whole = naive_response_logps(model, row["prompt_ids"], row["sample_ids"])
        thought = thought_tokens(row["sample_ids"], marker)
        assert found["sample_ref_logp"] == pytest.approx(float(whole[thought:].sum()), abs=1e-3)
    shown = load_run(result.run_folder).stages[0].samples  # as the report reads them
    assert [row.key for row in shown if not row.heldout and row.sample_logp is not None] == [
        row["key"] for row in answered
    ]
    assert {row.sample_logp is None for row in shown if row.heldout and row.sample != row.demonstration} == {False}
    reward = load_reward(result.run_folder, bf16=False)
    side = Completion(tuple(answered[0]["prompt_ids"]), Response(tuple(answered[0]["sample_ids"]), False))
    (given,) = reward.rewards_of([side])
    thought = thought_tokens(side.response.ids, marker)
    policy = LlamaForCausalLM.from_pretrained(result.model_folder)
    with torch.no_grad():
        new, old = (naive_response_logps(lm, *side_ids(side))[thought:].sum() for lm in (policy, model))
    assert given == pytest.approx(0.1 * float(new - old), abs=1e-4)
    assert f"{len(answered)} pairs have an answer after 'q': they train" in capsys.readouterr().out


def test_a_run_on_answers_is_concluded_and_its_audit_reads_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(IRFTConfig(**fields(place, "page", **STAGED | {"stages": 1, "max_new_tokens": LONG})))
    audited: list[Pair] = []
    monkeypatch.setattr("demotune.rewards.shortcuts.audit_shortcuts", audited.extend)
    conclude(result.run_folder)
    page = (result.run_folder / "report.html").read_text(encoding="utf-8")
    assert "answer_after" in page
    rows = {row["key"]: row for row in samples_of(result.run_folder)}
    assert set(rows) == {pair.key for pair in audited}
    for pair in audited:
        row = rows[pair.key]
        assert list(pair.sample.ids) == row["sample_ids"][row["sample_thought"] :]
        assert row["demo_thought"] == 0  # none of these demonstrations has the marker
    assert any(len(pair.sample.ids) < len(rows[pair.key]["sample_ids"]) for pair in audited)


def test_later_samples_are_preferred_to_earlier_ones_where_both_have_an_answer(place: Path) -> None:
    """`interpolicy`: the thoughts of both stand with their prompts."""
    own = {"stages": 2, "slices": "all", "interpolicy": 0.5, "max_new_tokens": LONG}
    result = run(IRFTConfig(**fields(place, "between", **STAGED | own)))
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    pairs = training_pairs(Stage(setup, 1))
    demos = {row.key: row.demo for row in setup.train}
    between = [pair for pair in pairs if pair.demo != demos[pair.key]]
    assert len(between) > 0
    for pair in pairs:
        assert pair.sample_thought == thought_tokens(pair.sample.ids, setup.answer_marker) > 0
    for pair in between:
        assert pair.demo_thought == thought_tokens(pair.demo.ids, setup.answer_marker) > 0


def test_the_gate_holds_the_reward_against_shortcuts_of_answers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --force, and with cut-off samples allowed, so that all pairs are judged."""
    audited: list[Pair] = []

    def audit(pairs: list[Pair]) -> ShortcutAudit | None:
        audited.extend(pairs)
        return audit_shortcuts(pairs)

    monkeypatch.setattr("demotune.training.reward_gate.audit_shortcuts", audit)
    shared = {name: value for name, value in RFT.items() if name not in ("reward_epochs", "force")}
    own = {"reward_kind": "linear", "max_new_tokens": LONG, "finished_only": False, "eval_share": 0.5}
    result = run(RFTConfig(**fields(place, "gate", **SMALL, **shared | own)))
    rows = {row["key"]: row for row in samples_of(result.run_folder)}
    assert {pair.key for pair in audited} == set(rows)
    for pair in audited:
        row = rows[pair.key]
        answer = row["sample_ids"][row["sample_thought"] :] if row["sample_thought"] else [END]
        assert list(pair.sample.ids) == answer
    assert any(row["sample_thought"] for row in rows.values())
    of_gate = [pair.sample.ids if pair.sample.ids != (END,) else () for pair in audited]
    audited.clear()
    monkeypatch.setattr("demotune.rewards.shortcuts.audit_shortcuts", audit)
    audit_run(result.run_folder)
    assert [pair.sample.ids for pair in audited] == of_gate


def test_samples_of_a_version_that_did_not_mark_answers_are_refused(place: Path) -> None:
    result = run(IRFTConfig(**fields(place, "earlier", **STAGED | {"stages": 1, "max_new_tokens": LONG})))
    file = result.run_folder / "stages" / "00" / "samples.jsonl.gz"
    unmarked = {"demo_thought": None, "sample_thought": None}
    write_records(file, [from_json(SampleRow, row | unmarked) for row in read_rows(file)])
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    with pytest.raises(DemotuneError, match=r"samples\.jsonl\.gz does not say where answers begin.*begin the run anew"):
        training_pairs(Stage(setup, 0))


@pytest.mark.parametrize("kind", ["full", "linear"])
def test_rft_rewards_answers_and_updates_whole_responses(kind: str, place: Path) -> None:
    """Two responses with one answer earn the same, whatever was thought; one without an answer is unfinished."""
    shared = {name: value for name, value in RFT.items() if name != "reward_epochs"}
    own: dict[str, Any] = {"reward_epochs": 1.0} if kind == "full" else {"reward_kind": "linear"}
    own |= {"max_new_tokens": LONG, "num_generations": 8}
    given = fields(place, f"rft-{kind}", **SMALL, **shared | own)
    result = run(RFTConfig(**given, missing_eos_penalty=3.0))
    marker = find_marker(tiny_tokenizer(), THINK, END)
    assert marker is not None
    (file, *_) = sorted((result.run_folder / "stages" / "00" / "rollouts").glob("*.jsonl.gz"))
    rollouts = read_rows(file)
    reward = load_reward(result.run_folder, bf16=False)
    read = answers_of(
        [Completion(tuple(row["prompt_ids"]), Response(tuple(row["response"]["ids"]), True)) for row in rollouts],
        marker,
    )
    assert [row["reward"] for row in rollouts] == pytest.approx(reward.rewards_of(read), abs=1e-4)
    whole = [Completion(tuple(row["prompt_ids"]), Response(tuple(row["response"]["ids"]), True)) for row in rollouts]
    answered = [row for row in whole if thought_tokens(row.response.ids, marker) is not None]
    # Outside of the run the reward finds the answer itself.
    assert reward.rewards_of(answered) == pytest.approx(reward.rewards_of(answers_of(answered, marker)), abs=1e-4)
    without = [row for row in rollouts if thought_tokens(row["response"]["ids"], marker) is None]
    assert 0 < len(without) < len(rollouts)
    assert not any(row["response"]["finished"] for row in without)
    assert all(len(row["logps"]) == len(row["response"]["ids"]) for row in rollouts)  # thoughts are updated, too


def test_without_any_answer_the_run_stops_with_the_reason(place: Path) -> None:
    given = fields(place, "none", **STAGED | {"stages": 1, "answer_after": "qqqqqqqqqqqqqqqqq"})
    with pytest.raises(DemotuneError, match=r"no sample of stage 1 has 'q+' and an answer after it"):
        run(IRFTConfig(**given))


def test_rft_names_the_marker_that_samples_lack_and_not_their_length(place: Path) -> None:
    own = {name: value for name, value in RFT.items() if name != "reward_epochs"} | {"reward_kind": "linear"}
    given = fields(place, "unmarked", **SMALL | own | {"finished_only": True, "answer_after": "qqqqqqqqqqqqqqqqq"})
    with pytest.raises(
        DemotuneError, match=r"were cut off or have no answer after 'q+'; .*a model that writes"
    ) as error:
        run(RFTConfig(**given))
    assert "--no-finished-only" not in str(error.value)


def test_without_a_start_sample_to_prefer_the_error_names_the_marker(place: Path) -> None:
    own = {name: value for name, value in RFT.items() if name != "reward_epochs"} | {"reward_kind": "linear"}
    own |= {"reward_positives": "start", "reward_negatives": ("base",), "base_model": str(place / "start")}
    given = fields(place, "no-positives", **SMALL | own | {"answer_after": "qqqqqqqqqqqqqqqqq"})
    with pytest.raises(DemotuneError, match=r"stage 1 has 0 pairs; no pair is left .*: start from a model that writes"):
        run(RFTConfig(**given))


def test_a_start_sample_without_an_answer_is_preferred_to_nothing(place: Path) -> None:
    """With cut-off responses allowed, too: what never came to an answer is no example."""
    own = {name: value for name, value in RFT.items() if name != "reward_epochs"} | {"reward_kind": "linear"}
    own |= {"max_new_tokens": LONG, "finished_only": False, "reward_positives": "start", "reward_negatives": ("base",)}
    asked = RFTConfig(**fields(place, "positives", **SMALL | own | {"base_model": str(place / "start")}))
    result = run(asked)
    answered = {row["key"] for row in samples_of(result.run_folder) if row["sample_thought"]}
    setup = prepare_run(asked, RunFolder(result.run_folder), ())
    pairs = [pair for side in (False, True) for pair in contrast_pairs(Stage(setup, 0), side)]
    assert {pair.key for pair in pairs} == answered
    assert 0 < len(answered) < len(samples_of(result.run_folder))


@pytest.mark.parametrize(
    ("fields", "said", "unsaid"),
    [
        ({}, "only 30% of the samples of stage 1 end by themselves", "answer after"),
        ({"answer_after": "</think>"}, "samples of stage 1 have an answer after '</think>' and end by", "from an SFT"),
        ({}, "a lower --learning-rate or an --sft-weight above 0 holds it up", "answer after"),
        ({"sft_weight": 0.1}, "a lower --learning-rate or a larger --sft-weight holds it up", "above 0"),
        ({"interpolicy": 0.1, "slices": "all"}, "a lower --learning-rate holds it up", "--sft-weight"),
    ],
)
def test_warnings_name_what_can_be_done(
    fields: dict[str, Any], said: str, unsaid: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    asked = IRFTConfig(model="m", data=("d",), output="o", **fields)
    state = {"train": {"end": {"rewards/chosen": -1.0}}, "sample": {"completions/finished_share": 0.3}}
    warn_about_pairs(cast(Stage, SimpleNamespace(setup=SimpleNamespace(config=asked), state=state, title="stage 1")))
    shown = " ".join("".join(capsys.readouterr()).split())
    assert said in shown
    assert unsaid not in shown


def test_the_link_tspin_compares_answers_with_those_of_the_start_model(place: Path) -> None:
    """Thoughts stand with the prompts of all three sides; rows that the start model did not answer take no part."""
    result = run(
        IRFTConfig(
            **fields(place, "tspin", **STAGED | {"stages": 2, "slices": "all", "link": "tspin", "max_new_tokens": LONG})
        )
    )
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    marker = setup.answer_marker
    assert marker is not None
    first, second = (triplets(Stage(setup, number)) for number in (0, 1))
    assert [one.first for one in first] == [one.pair.sample for one in first]
    answered = {one.pair.key for one in first}
    assert answered > {one.pair.key for one in second} != set()
    assert len(training_pairs(Stage(setup, 1))) > len(second)
    for one in [*first, *second]:
        for side, response in ((one.first_side, one.first), (one.pair.sides[1], one.pair.sample)):
            thought = thought_tokens(response.ids, marker)
            assert side == ((*one.pair.prompt_ids, *response.ids[:thought]), response.ids[thought:])
    assert any(one.first != one.pair.sample for one in second)


@pytest.mark.parametrize("kind", ["full", "linear"])
def test_a_co_trained_reward_learns_from_answers_and_judges_them(kind: str, place: Path) -> None:
    """Its pairs hold answers alone, and of a batch responses with one answer earn the same."""
    own: dict[str, Any] = {"reward_steps": 2} if kind == "full" else {"reward_kind": "linear"}
    shared = {name: value for name, value in RFT.items() if name != "reward_epochs"}
    own |= {"max_new_tokens": LONG, "num_generations": 8, "policy_batches": 2, "reward_every": 1}
    result = run(RFTConfig(**fields(place, f"co-{kind}", **SMALL, **shared | own)))
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    marker, taught = setup.answer_marker, TaughtPairs(Stage(setup, 0))
    assert marker is not None
    (file, _) = sorted((result.run_folder / "stages" / "00" / "rollouts").glob("*.jsonl.gz"))
    rows = read_rows(file)
    answers = [answer_of(Response(tuple(row["response"]["ids"]), row["response"]["finished"]), marker) for row in rows]
    earned: dict[tuple[Any, ...], set[float]] = {}
    for row, answer in zip(rows, answers, strict=True):
        earned.setdefault((tuple(row["prompt_ids"]), answer.ids), set()).add(round(row["reward"], 4))
    assert len(earned) < len(rows)  # responses without an answer are equal by it
    assert {len(rewards) for rewards in earned.values()} == {1}
    learned_from = taught.of_batch(0)
    assert {pair.sample for pair in learned_from} <= set(answers)
    assert all(thought_tokens(pair.demo.ids, marker) is None for pair in [*taught.of_stage, *learned_from])
