"""`demotune score`, `select` and `sample --best-of`: rows in, numbers and the best rows out; real rows too."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.command import call
from helpers.outside import OUTSIDE
from helpers.rewards import LONG, ODD_TOKENS, PROMPTS, Counting, ask, plain_scores, save_classifier, save_reward
from helpers.tiny import save_tiny, tiny_tokenizer, write_rows
from transformers import AutoTokenizer
from trl.data_utils import apply_chat_template, is_conversational

from demotune import DemotuneError, ImplicitReward, IRFTConfig, ScalarReward, SFTConfig, run
from demotune.common.statistics import Interval, share_interval
from demotune.config.commands import RowReading
from demotune.config.drawing import GenerationOptions
from demotune.data import load_demonstrations, load_preferences
from demotune.data.rendering import Renderer
from demotune.records import Demonstration
from demotune.rewards.answers import BestOf, answer
from demotune.rewards.score import ScoredRow, score_preferences, score_rows
from demotune.rewards.select import Choice, select_rows

REAL = OUTSIDE / "data/alpaca_eval/test.jsonl.gz"


LETTER_Z = [tiny_tokenizer().convert_tokens_to_ids("z")]


def write(file: Path, *rows: Mapping[str, object]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def read(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    save_reward(folder / "reward")
    return folder


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on machines with and without bfloat16."""
    monkeypatch.setattr("demotune.common.machine.has_fast_bf16", lambda _: False)


# Preference rows -----------------------------------------------------------------------------------------------------

TURNS = [*ask("Hi"), {"role": "assistant", "content": "Hello"}, *ask("Bye")]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))


@pytest.mark.parametrize(
    ("row", "prompt", "columns"),
    [
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad"}, ask("Hi"), None),
        ({"prompt": TURNS, "chosen": GOOD, "rejected": BAD}, TURNS, None),
        ({"prompt": "Hi", "chosen": [*ask("Hi"), *GOOD], "rejected": [*ask("Hi"), *BAD]}, ask("Hi"), None),
        ({"chosen": [*TURNS, *GOOD], "rejected": [*TURNS, *BAD]}, TURNS, None),
        ({"real": [*ask("Hi"), *GOOD], "generated": [*ask("Hi"), *BAD]}, ask("Hi"), None),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: good", "rejected": "\n\nHuman: Hi\n\nAssistant: bad"},
            ask("Hi"),
            None,
        ),
        ({"q": "Hi", "a": "good", "b": "bad"}, ask("Hi"), "prompt=q,response=a,rejected=b"),
        ({"m": [*ask("Hi"), *GOOD], "n": [*ask("Hi"), *BAD]}, ask("Hi"), "messages=m,rejected=n"),
    ],
)
def test_both_sides_of_every_format(
    tmp_path: Path, row: dict[str, object], prompt: list[dict[str, str]], columns: str | None
) -> None:
    loaded = load_preferences([write(tmp_path / "rows.jsonl", row)], columns=columns)
    (found,) = loaded.rows
    assert (list(found.prompt), found.chosen, found.rejected) == (prompt, "good", "bad")
    assert found.source.endswith("rows.jsonl:1")
    assert (loaded.bad_rows, loaded.rows_read) == ((), 1)


def test_pairs_that_cannot_be_judged_are_named(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"prompt": "Hi", "chosen": "good", "rejected": "worse"},  # another pair, not a duplicate
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"prompt": "Hi", "chosen": "good"},
        {"prompt": "Hi", "chosen": "good", "rejected": 7},
        {"prompt": "Hi", "chosen": "good", "rejected": "good"},
    )
    loaded = load_preferences([file])
    assert [row.rejected for row in loaded.rows] == ["bad", "worse"]
    assert [(row.source.rpartition(":")[2], row.reason) for row in loaded.bad_rows] == [
        ("3", "duplicate"),
        ("4", "missing column"),
        ("5", "wrong type"),
        ("6", "duplicate"),
    ]
    assert loaded.bad_rows[2].detail == "rejected in the place of chosen: chosen is int 7, expected text"
    other = {"chosen": [*ask("Hi"), *GOOD], "rejected": [*ask("Bye"), *BAD]}
    (bad,) = load_preferences([write(tmp_path / "other.jsonl", other)]).bad_rows
    assert (bad.reason, bad.detail) == ("prompt mismatch", "chosen and rejected answer different prompts")


# Scores --------------------------------------------------------------------------------------------------------------


def test_rows_are_scored_in_order_and_refused_by_name(tmp_path: Path) -> None:
    """The letter z: 2, 0 and 1 times. One row is bad, one longer than the reward reads."""
    file = write(
        tmp_path / "rows.jsonl",
        {"prompt": "a", "completion": "zz"},
        {"prompt": "b", "completion": ""},
        {"prompt": "c", "completion": "none"},
        {"prompt": "d", "completion": "z" * 90},
        {"prompt": "e", "completion": "one z"},
    )
    found = score_rows(Counting(LETTER_Z, longest=100), [file])
    assert [row.reward for row in found.rows] == [2.0, 0.0, 1.0]
    assert [row.demonstration.source.rpartition(":")[2] for row in found.rows] == ["1", "3", "5"]
    assert found.rows[0].tokens == 3  # z, z, end of turn
    assert [(row.source.rpartition(":")[2], row.reason) for row in found.refused] == [
        ("2", "empty response"),
        ("4", "over-long"),
    ]
    assert [row.reward for row in score_rows(Counting(LETTER_Z), [file], RowReading(max_rows=2)).rows] == [2.0, 0.0]


def test_accuracy_by_hand(tmp_path: Path) -> None:
    """z in (chosen, rejected): (2, 0) right, (1, 1) tie, (0, 1) wrong, (3, 0) right but twice as long: 2.5 of 4.

    Of like length are the first three: 1.5 of 3. Margins 2, 0, -1, 3 have mean 1.
    """
    sides = [("zza", "bbb"), ("azb", "bza"), ("abc", "zab"), ("zzzabcabc", "ab")]
    rows = [{"prompt": "a", "chosen": chosen, "rejected": rejected} for chosen, rejected in sides]
    check = score_preferences(Counting(LETTER_Z), [write(tmp_path / "rows.jsonl", *rows)]).check
    assert (check.pairs, check.accuracy.value, check.margin) == (4, 2.5 / 4, 1.0)
    # A tie may be right or wrong: the lower bound is that of 2 of 4, the upper one that of 3 of 4.
    assert check.accuracy == Interval(2.5 / 4, share_interval(2, 4).low, share_interval(3, 4).high)
    assert check.matched_pairs == 3
    assert check.matched_accuracy == Interval(1.5 / 3, share_interval(1, 3).low, share_interval(2, 3).high)


def test_an_implicit_reward_judges_pairs_too(tmp_path: Path) -> None:
    """A reward and its mirror image (policy and reference exchanged) are right on the others' wrong pairs."""
    models = [save_tiny(tmp_path / str(seed), seed) for seed in (0, 1)]
    rows = [{"prompt": f"say {n}", "chosen": f"{n} one", "rejected": f"two {n * 7}"} for n in range(12)]
    file = write(tmp_path / "rows.jsonl", *rows)
    one = score_preferences(ImplicitReward(*models, 0.1), [file])
    other = score_preferences(ImplicitReward(*reversed(models), 0.1), [file])
    assert one.check.accuracy.value + other.check.accuracy.value == pytest.approx(1.0)
    assert one.rows[3].rewards == pytest.approx([-score for score in other.rows[3].rewards], abs=1e-5)


# Selection -----------------------------------------------------------------------------------------------------------


def scored(*scores: float) -> list[ScoredRow]:
    return [ScoredRow(Demonstration((), str(n), f"f:{n}"), score, 1) for n, score in enumerate(scores)]


def test_the_best_rows_stay_in_the_order_of_the_data() -> None:
    rows = scored(0.5, 2.0, -1.0, 2.0, 0.5)
    assert select_rows(rows, Choice(top=2)) == [rows[1], rows[3]]
    assert select_rows(rows, Choice(top=3)) == [rows[0], rows[1], rows[3]]  # of the two 0.5 the earlier
    assert select_rows(rows, Choice(top=9)) == rows
    assert select_rows(rows, Choice(threshold=0.5)) == [rows[0], rows[1], rows[3], rows[4]]
    with pytest.raises(DemotuneError, match=r"no row scores 2\.5 or more, the best has 2; lower --threshold"):
        select_rows(rows, Choice(threshold=2.5))


@pytest.mark.parametrize(("choice", "named"), [({}, "neither"), ({"top": 1, "threshold": 0.0}, "both")])
def test_exactly_one_choice(choice: dict[str, float], named: str) -> None:
    with pytest.raises(DemotuneError, match=f"{named} of --top and --threshold given; say --top N or --threshold"):
        Choice(**choice)  # type: ignore[arg-type]


# Best of several -----------------------------------------------------------------------------------------------------


def test_more_responses_are_never_worse_and_the_first_is_the_plain_one(place: Path) -> None:
    policy, options = str(place / "start"), GenerationOptions(max_new_tokens=LONG)
    plain = answer(policy, PROMPTS, options)
    one, two, six = (answer(policy, PROMPTS, options, best_of=BestOf(n, Counting(ODD_TOKENS))) for n in (1, 2, 6))
    assert [given.text for given in one] == [given.text for given in plain]
    for first, second, last in zip(one, two, six, strict=True):
        assert (first.finished, first.reward) <= (second.finished, second.reward) <= (last.finished, last.reward)
    assert all(better.text != given.text for better, given in zip(six, plain, strict=True))


def test_a_prompt_longer_than_the_model_is_refused_and_answers_end_where_it_ends(place: Path) -> None:
    """The tiny model has 256 positions."""
    with pytest.raises(DemotuneError, match=r"prompt 2 has \d+ tokens and the model has 256 positions"):
        answer(str(place / "start"), [PROMPTS[0], tuple(ask("hello " * 300))], GenerationOptions(max_new_tokens=4))
    (given,) = answer(str(place / "start"), PROMPTS[:1], GenerationOptions(max_new_tokens=1000, top_k=1))
    assert given.finished or 200 < len(tiny_tokenizer()(given.text)["input_ids"]) <= 256


def test_the_best_one_is_chosen_of_all_that_were_drawn(place: Path) -> None:
    """Every response that the reward read, beside the answer: ids as they were drawn, finished ones first."""
    reward = Counting(ODD_TOKENS)
    answers = answer(str(place / "start"), PROMPTS, GenerationOptions(max_new_tokens=LONG), best_of=BestOf(8, reward))
    renderer = Renderer(tiny_tokenizer())
    finished = [completion.response.finished for completion in reward.read]
    assert (len(finished), 0 < sum(finished) < 24) == (24, True)  # or this test shows nothing
    for prompt, given in zip(PROMPTS, answers, strict=True):
        drawn = [completion for completion in reward.read if completion.prompt_ids == renderer.prompt_ids(prompt)]
        assert len({completion.response.ids for completion in drawn}) == 8  # each from a stream of its own
        best = max(drawn, key=lambda completion: (completion.response.finished, reward.of(completion)))
        assert (given.finished, given.reward) == (best.response.finished, reward.of(best))
        assert given.text == renderer.decode(best.response.ids)


def test_another_vocabulary_reads_the_text(place: Path) -> None:
    """A reward whose tokenizer knows one word more: prompts and responses are rendered anew by its own tokenizer."""
    other = tiny_tokenizer()
    other.add_tokens(["zebra"])
    reward = Counting(ODD_TOKENS, renderer=Renderer(other, "Q: {prompt} A: "))
    answers = answer(str(place / "start"), PROMPTS, GenerationOptions(max_new_tokens=LONG), best_of=BestOf(6, reward))
    assert {other.decode(c.prompt_ids) for c in reward.read} == {f"Q: {p[0]['content']} A: " for p in PROMPTS}
    assert 0 < sum(completion.response.finished for completion in reward.read) < 18
    for completion in reward.read:
        assert (completion.response.ids[-1] == 2) == completion.response.finished
    read_as = {reward.renderer.decode(completion.response.ids): reward.of(completion) for completion in reward.read}
    assert [given.reward for given in answers] == [read_as[given.text] for given in answers]


def test_a_reward_of_the_same_vocabulary_but_another_template_reads_the_text(place: Path) -> None:
    reward = Counting(ODD_TOKENS, renderer=Renderer(tiny_tokenizer(), "{prompt}: "))
    answer(str(place / "start"), PROMPTS[:1], GenerationOptions(max_new_tokens=6), best_of=BestOf(2, reward))
    assert {tiny_tokenizer().decode(completion.prompt_ids) for completion in reward.read} == {"hello: "}


def test_a_reward_leaves_out_what_is_too_long_for_it(place: Path) -> None:
    reward = Counting(ODD_TOKENS)
    shortest = min(len(reward.renderer.prompt_ids(prompt)) for prompt in PROMPTS)
    reward.longest = shortest
    with pytest.raises(DemotuneError, match=r"the reward can read none of the 6 responses \(over-long"):
        answer(str(place / "start"), PROMPTS, GenerationOptions(max_new_tokens=4), best_of=BestOf(2, reward))
    reward.longest = shortest + 4  # the shortest prompt fits
    answers = answer(str(place / "start"), PROMPTS, GenerationOptions(max_new_tokens=4), best_of=BestOf(2, reward))
    lengths = [len(reward.renderer.prompt_ids(prompt)) for prompt in PROMPTS]
    assert [given.reward is not None for given in answers] == [length == shortest for length in lengths]


# On the command line -------------------------------------------------------------------------------------------------


def test_score_writes_a_number_per_row(place: Path) -> None:
    """Each score is that of plain transformers on the row's own tokens; 1e-5."""
    out = place / "scores.jsonl"
    code, shown = call("score", "--reward", str(place / "reward"), "--data", str(place / "rows.jsonl"),
                       "--output", str(out))  # fmt: skip
    assert code == 0, shown
    rows = read(out)
    assert list(rows[0]) == ["source", "prompt", "completion", "score", "tokens"]
    assert (rows[4]["prompt"], rows[4]["completion"][0]["content"]) == (ask("say 4 please"), "4, of course 4")
    tokenizer = AutoTokenizer.from_pretrained(place / "reward")
    texts = [apply_chat_template(row, tokenizer) for row in rows]
    ids = [tokenizer(t["prompt"] + t["completion"].removesuffix("\n"))["input_ids"] for t in texts]
    assert [row["score"] for row in rows] == pytest.approx(plain_scores(place / "reward", ids), abs=1e-5)
    assert f"24 rows written to {out}" in shown.replace("\n", "")
    code, again = call("score", "--reward", str(place / "reward"), "--data", str(place / "rows.jsonl"))
    assert code == 0
    assert "responses" in again
    assert "written" not in again


def test_select_keeps_the_best_and_its_output_trains(place: Path) -> None:
    out = place / "best.jsonl"
    arguments = ["--reward", str(place / "reward"), "--data", str(place / "rows.jsonl")]
    call("score", *arguments, "--output", str(place / "all.jsonl"))
    code, shown = call("select", *arguments, "--top", "5", "--output", str(out))
    assert (code, "5 of 24 rows kept" in shown) == (0, True), shown
    best = sorted(read(place / "all.jsonl"), key=lambda row: -row["score"])[:5]
    kept = sorted(read(out), key=lambda row: -row["score"])
    assert len({row.pop("reward")["hash"] for row in kept}) == 1
    assert kept == best
    sources = [int(row["source"].rpartition(":")[2]) for row in read(out)]
    assert sources == sorted(sources)
    assert all(is_conversational(row) for row in read(out))
    assert len(load_demonstrations([str(out)]).rows) == 5
    model, sft = str(place / "start"), str(place / "sft")
    run(SFTConfig(model=model, data=(str(out),), output=sft, max_steps=1, bf16=False, max_length=128))
    threshold = best[2]["score"]
    code, shown = call("select", *arguments, "--threshold", str(threshold), "--output", str(out))
    assert (code, "3 of 24 rows kept" in shown) == (0, True)
    code, shown = call("select", *arguments, "--top", "99", "--output", str(out))
    assert (code, "only 24 rows have a score, fewer than --top 99: all are kept" in shown) == (0, True)


def test_sample_writes_the_best_with_its_score(place: Path) -> None:
    out = place / "answers.jsonl"
    given = ["--model", str(place / "start"), "--prompt", "say one", "--max-new-tokens", "6"]
    code, shown = call("sample", *given, "--best-of", "3", "--reward", str(place / "reward"), "--output", str(out))
    assert code == 0, shown
    (row,) = read(out)
    best_of = BestOf(3, ScalarReward(place / "reward", bf16=False))
    (expected,) = answer(str(place / "start"), [ask("say one")], GenerationOptions(max_new_tokens=6), best_of=best_of)
    assert (row["completion"][0]["content"], row["finished"]) == (expected.text, expected.finished)
    assert row["score"] == pytest.approx(expected.reward, abs=1e-6)
    code, shown = call("sample", *given, "--best-of", "2", "--reward", str(place / "reward"))
    assert (code, "[score " in shown) == (0, True)


def test_rows_without_a_score_are_named_beside_the_output(place: Path) -> None:
    file = write(place / "mixed.jsonl", {"prompt": "a", "completion": "b"}, {"prompt": "a"},
                 {"prompt": "a", "completion": "b" * 300})  # fmt: skip
    arguments = ["score", "--reward", str(place / "reward"), "--data", file]
    code, shown = call(*arguments, "--output", str(place / "mixed-scores.jsonl"))
    assert (code, "2 rows have no score (missing column 1, over-long 1)" in shown) == (0, True)
    named = [(row["source"], row["reason"]) for row in read(place / "mixed-scores.refused.jsonl")]
    assert named == [(f"{file}:2", "missing column"), (f"{file}:3", "over-long")]
    code, shown = call(*arguments)
    assert f"{file}:2: missing column: no completion" in shown
    code, shown = call(*arguments, "--max-rows", "1", "--output", str(place / "mixed-scores.jsonl"))
    assert [row["reason"] for row in read(place / "mixed-scores.refused.jsonl")] == ["missing column"]


def real_rows(folder: Path, count: int) -> str:
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not here; it is not part of the project")
    with gzip.open(REAL, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    rows = [row for row in rows if row["chosen"] != row["rejected"]]  # three of the hundred are alike
    return write(folder / "real.jsonl", *sorted(rows, key=lambda row: len(str(row)))[:count])


def test_real_pairs_of_one_response_are_named() -> None:
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not here; it is not part of the project")
    loaded = load_preferences([str(REAL)])
    assert (len(loaded.rows), loaded.rows_read) == (97, 100)
    assert {row.detail for row in loaded.bad_rows} == {"chosen and rejected are the same response"}


def test_real_preference_rows(place: Path) -> None:
    """Accuracy on screen is that of the written numbers; both sides are there; selection keeps chosen sides."""
    file = real_rows(place, 12)
    reward = str(save_reward(place / "long-reward", longest=8192))
    code, shown = call("score", "--reward", reward, "--data", file, "--output", str(place / "pairs.jsonl"))
    assert code == 0, shown
    rows = read(place / "pairs.jsonl")
    assert len(rows) == 12
    right = sum(row["score_chosen"] > row["score_rejected"] for row in rows)
    assert f"chosen earns more in {share_interval(right, 12).text()} of 12 pairs" in shown
    assert len(load_preferences([str(place / "pairs.jsonl")]).rows) == 12
    call("select", "--reward", reward, "--data", file, "--top", "4", "--output", str(place / "real-best.jsonl"))
    best = sorted(rows, key=lambda row: -row["score_chosen"])[:4]
    found = {(str(row["prompt"]), str(row["completion"])) for row in read(place / "real-best.jsonl")}
    assert found == {(str(row["prompt"]), str(row["chosen"])) for row in best}


def test_real_prompts_get_the_best_of_three(place: Path) -> None:
    rows = [json.loads(line) for line in Path(real_rows(place, 3)).read_text().splitlines()]
    prompts = write(place / "prompts.jsonl", *({"prompt": row["prompt"]} for row in rows))
    start = ["--model", str(place / "start"), "--prompts", prompts, "--max-new-tokens", "6"]
    best = ["--best-of", "3", "--reward", str(place / "reward"), "--output", str(place / "best-answers.jsonl")]
    code, shown = call("sample", *start, *best)
    assert code == 0, shown
    assert [row["prompt"] for row in read(place / "best-answers.jsonl")] == [row["prompt"] for row in rows]
    assert all(isinstance(row["score"], float) for row in read(place / "best-answers.jsonl"))


def test_the_same_commands_take_an_irft_run(place: Path) -> None:
    config = IRFTConfig(
        model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "irft"), stages=1,
        max_length=128, bf16=False, learning_rate=1e-2, max_new_tokens=8, samples_per_prompt=1, steps_per_stage=2,
    )  # fmt: skip
    run(config)
    arguments = ["--reward", str(place / "irft"), "--data", str(place / "rows.jsonl")]
    code, shown = call("score", *arguments, "--output", str(place / "implicit.jsonl"))
    assert (code, "implicit reward 0.1 * log(" in shown) == (0, True), shown
    assert len({row["score"] for row in read(place / "implicit.jsonl")}) == 24
    code, shown = call("select", *arguments, "--top", "3", "--output", str(place / "implicit-best.jsonl"))
    assert (code, len(read(place / "implicit-best.jsonl"))) == (0, 3)
    start = ["--model", str(place / "start"), "--prompt", "say one", "--max-new-tokens", "4"]
    code, shown = call("sample", *start, "--best-of", "2", "--reward", str(place / "irft"))
    assert (code, "[score " in shown) == (0, True), shown


def test_wrong_input_gets_one_line_that_names_the_fix(place: Path) -> None:
    save_classifier(place / "two", 2)
    (place / "empty.jsonl").write_text("")
    reward, rows, best = str(place / "reward"), str(place / "rows.jsonl"), str(place / "never.jsonl")
    pairs = write(place / "some-pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    broken = write(place / "broken.jsonl", {"prompt": "a", "completion": ""})
    cases = [
        (["score", "--reward", str(place / "two"), "--data", rows], "has 2 labels; a reward has one number"),
        (["score", "--reward", str(place / "start"), "--data", rows], "is no sequence classifier, so it gives no"),
        (["score", "--reward", str(place / "nowhere"), "--data", rows], "check the path or the hub id"),
        (["score", "--reward", reward, "--data", str(place / "empty.jsonl")], "empty.jsonl has no rows"),
        (["score", "--reward", reward, "--data", str(place / "no.jsonl")], "no.jsonl does not exist"),
        (["score", "--reward", reward, "--data", broken], "can be scored (empty response 1); the first is"),
        (["score", "--reward", reward, "--data", rows, "--data", pairs], "has pairs of responses and"),
        (["score", "--reward", reward, "--data", rows, "--output", "x.csv"], "must end in .jsonl or .jsonl.gz"),
        (["score", "--reward", reward, "--data", rows, "--output", rows], "is also the data; give another file"),
        (
            ["score", "--reward", reward, "--data", pairs, "--columns", "prompt=prompt,response=chosen,rejected=worse"],
            "no row has the columns of",
        ),
        (["select", "--reward", reward, "--data", rows, "--output", best], "neither of --top and --threshold given"),
        (
            ["select", "--reward", reward, "--data", rows, "--output", best, "--top", "1", "--threshold", "1"],
            "both of --top and --threshold given",
        ),
        (["select", "--reward", reward, "--data", rows, "--output", best, "--top", "0"], "top must be at least 1"),
        (["select", "--reward", reward, "--data", rows, "--output", best, "--threshold", "99"], "no row scores 99 or"),
        (["sample", "--model", "m", "--prompt", "p", "--best-of", "2"], "--best-of needs --reward R"),
        (["sample", "--model", "m", "--prompt", "p", "--reward", reward], "--reward needs --best-of N"),
        (
            ["sample", "--model", str(place / "start"), "--prompt", "p", "--best-of", "2", "--reward", reward,
             "--temperature", "0"],
            "best of 2 needs responses that differ",
        ),
    ]  # fmt: skip
    for arguments, expected in cases:
        code, shown = call(*arguments)
        assert (code, shown.count("error: "), "Traceback" in shown) == (1, 1, False), (arguments, shown)
        assert expected in shown, (arguments, shown)
    assert not Path(best).exists()
