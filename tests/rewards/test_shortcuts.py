"""How far surface tells demonstration from sample: pairs whose answer is known, and verdicts computed by hand."""

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

from demotune.common.errors import DemotuneError
from demotune.common.files import write_rows
from demotune.common.statistics import Interval, share_interval
from demotune.records import Pair, Response
from demotune.rewards import shortcuts
from demotune.rewards.shortcuts import (
    SHORTCUTS,
    ShortcutAudit,
    audit_run,
    audit_shortcuts,
    judge_reward,
    not_too_many,
)
from demotune.runs.shortcuts import Shortcut

STOP = 1


def response(rng: random.Random, length: int, *, finished: bool = True) -> Response:
    """Random tokens, of 50 kinds; `length` counts the end token."""
    ids = tuple(rng.randrange(10, 60) for _ in range(length - finished))
    return Response((*ids, STOP) if finished else ids, finished)


def pair(number: int, demo: Response, sample: Response, *, prompt: int | None = None) -> Pair:
    return Pair(f"k{number}", (3, number if prompt is None else prompt), demo, sample)


def audited(pairs: Sequence[Pair]) -> dict[str, Shortcut]:
    audit = audit_shortcuts(pairs)
    assert audit is not None
    return {shortcut.name: shortcut for shortcut in audit.shortcuts}


def right_by(pairs: Sequence[Pair]) -> dict[str, tuple[float, ...]]:
    """By shortcut, which pairs it gets right."""
    audit = audit_shortcuts(pairs)
    assert audit is not None
    return {shortcut.name: right for shortcut, right in zip(audit.shortcuts, audit.right, strict=True)}


def test_samples_always_longer() -> None:
    """Only length tells: all of it, and together with the rest too. The end token is on both sides: half, a tie."""
    rng = random.Random(0)
    pairs = [pair(n, response(rng, rng.randint(5, 20)), response(rng, rng.randint(40, 90))) for n in range(60)]
    found = audited(pairs)
    assert list(found) == list(SHORTCUTS) == ["length", "end token", "first tokens", "last tokens", "all together"]
    for name in ("length", "all together"):
        assert found[name].auc == Interval(1.0, 1.0, 1.0)
        assert found[name].accuracy == share_interval(60, 60)
    assert found["end token"].auc == Interval(0.5, 0.5, 0.5)
    assert found["end token"].accuracy == share_interval(30, 60)
    assert right_by(pairs)["end token"] == (0.5,) * 60
    for name in ("first tokens", "last tokens"):
        assert found[name].auc.low < 0.5 < found[name].auc.high


def test_the_same_distribution_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten data sets of 100 prompts: no drift from a half, and most intervals contain it."""

    def drawn(rng: random.Random) -> Response:
        return response(rng, rng.randint(5, 60), finished=rng.random() < 0.7)

    monkeypatch.setattr("demotune.rewards.shortcuts.RESAMPLES", 300)
    found = []
    for seed in range(10):
        rng = random.Random(seed)
        found += audited([pair(n, drawn(rng), drawn(rng)) for n in range(100)]).values()
    for intervals in ([shortcut.auc for shortcut in found], [shortcut.accuracy for shortcut in found]):
        assert fmean(interval.value for interval in intervals) == pytest.approx(0.5, abs=0.03)
        assert fmean(interval.low < 0.5 < interval.high for interval in intervals) > 0.75
        assert all(0.05 < interval.high - interval.low < 0.3 for interval in intervals)


def test_end_token_by_hand() -> None:
    """A quarter of the samples is cut off: right there, a tie elsewhere, 0.25 + 0.75 / 2. So is the AUC."""
    rng = random.Random(2)
    pairs = [pair(n, response(rng, 20), response(rng, 20, finished=n % 4 > 0)) for n in range(60)]
    shortcut = audited(pairs)["end token"]
    assert shortcut.accuracy == share_interval(37.5, 60)
    assert shortcut.auc.value == pytest.approx(0.625)
    assert 0.55 < shortcut.auc.low < 0.6
    assert 0.65 < shortcut.auc.high < 0.7
    assert right_by(pairs)["end token"] == tuple(1.0 if n % 4 == 0 else 0.5 for n in range(60))


def test_neither_short_nor_long_is_the_demonstration() -> None:
    """Demonstrations lie between samples that are much shorter and much longer."""
    rng = random.Random(3)
    lengths = [rng.randint(4, 9) if n % 2 else rng.randint(200, 300) for n in range(80)]
    pairs = [pair(n, response(rng, rng.randint(30, 60)), response(rng, length)) for n, length in enumerate(lengths)]
    assert audited(pairs)["length"].accuracy.value == 1.0


def test_a_shortcut_compares_sides_of_one_prompt() -> None:
    """Samples are a little longer than their own demonstration, lengths of prompts differ much: pairs are all told
    apart, responses of different prompts are not."""
    rng = random.Random(4)
    lengths = [rng.randint(10, 400) for _ in range(100)]
    pairs = [pair(n, response(rng, length), response(rng, length + 3)) for n, length in enumerate(lengths)]
    found = audited(pairs)["length"]
    assert found.accuracy.value > 0.95
    assert found.auc.value < 0.6


@pytest.mark.parametrize(("name", "place"), [("first tokens", 0), ("first tokens", 2), ("last tokens", -2)])
def test_a_token_at_the_edge(name: str, place: int) -> None:
    rng = random.Random(5)

    def marked(found: Response) -> Response:
        ids = list(found.ids)
        ids[place] = 99
        return Response(tuple(ids), found.finished)

    found = audited([pair(n, marked(response(rng, 30)), response(rng, 30)) for n in range(60)])
    assert found[name].accuracy.value > 0.9
    assert found["all together"].accuracy.value > 0.9
    other = "last tokens" if name == "first tokens" else "first tokens"
    assert found[other].accuracy.low < 0.5


def test_only_three_tokens_and_not_the_stop_token() -> None:
    """The fourth token from either end and the kind of stop token differ; neither shortcut may see that."""
    rng = random.Random(6)
    pairs = []
    for n in range(40):
        first, last = [[rng.randrange(10, 60) for _ in range(3)] for _ in range(2)]
        demo, sample = ((*first, mark, 5, 5, mark, *last, mark) for mark in (98, 99))
        pairs.append(pair(n, Response(demo, True), Response(sample, True)))
    assert {right for name in SHORTCUTS for right in right_by(pairs)[name]} == {0.5}


def test_a_prompt_is_never_in_training_and_test() -> None:
    """Each prompt has five pairs and tokens of its own that mark its sides. Who saw another pair of the prompt would be
    right in all; who did not, knows none of the tokens."""
    pairs = [
        pair(n, Response((1000 + n % 20,) * 8, False), Response((2000 + n % 20,) * 8, False), prompt=n % 20)
        for n in range(100)
    ]
    audit = audit_shortcuts(pairs)
    assert audit is not None
    assert (audit.prompts, len(audit.keys)) == (20, 100)
    assert {right for of_shortcut in audit.right for right in of_shortcut} == {0.5}


def test_responses_without_text() -> None:
    found = audited([pair(n, Response((STOP,), True), Response((STOP,), True)) for n in range(12)])
    assert all(shortcut.accuracy.value == 0.5 for shortcut in found.values())


def test_too_few_prompts() -> None:
    rng = random.Random(7)

    def pairs(count: int, prompts: int) -> list[Pair]:
        return [pair(n, response(rng, 9), response(rng, 9), prompt=n % prompts) for n in range(count)]

    assert audit_shortcuts([]) is None
    assert audit_shortcuts(pairs(40, prompts=9)) is None
    assert audit_shortcuts(pairs(10, prompts=10)) is not None


def test_the_same_pairs_give_the_same_numbers() -> None:
    rng = random.Random(8)
    pairs = [pair(n, response(rng, rng.randint(5, 40)), response(rng, rng.randint(8, 40))) for n in range(30)]
    assert audit_shortcuts(pairs) == audit_shortcuts(pairs)


def audit_with(rights: dict[str, list[float]]) -> ShortcutAudit:
    [count] = {len(right) for right in rights.values()}
    shortcuts = tuple(
        Shortcut(name, Interval(0.5, 0.4, 0.6), share_interval(sum(right), count)) for name, right in rights.items()
    )
    return ShortcutAudit(count, tuple(f"k{n}" for n in range(count)), shortcuts, tuple(map(tuple, rights.values())))


def test_a_reward_better_than_its_shortcuts() -> None:
    """12 pairs; the best shortcut is right in 4 and ties in 2, the reward is right in all: 8 against 0, p = 2 / 2^8."""
    audit = audit_with({"length": [1.0] * 4 + [0.5] * 2 + [0.0] * 6, "end token": [0.0] * 12})
    verdict = judge_reward(audit, {f"k{n}": (2.0, 1.0) for n in range(12)})
    assert verdict is not None
    assert (verdict.verdict, verdict.shortcut, verdict.pairs) == ("better than its shortcuts", "length", 12)
    assert (verdict.reward_only, verdict.shortcut_only, verdict.p) == (8, 0, pytest.approx(2 / 2**8))
    assert verdict.reward_accuracy == share_interval(12, 12)
    assert verdict.shortcut_accuracy == share_interval(5, 12)
    assert "better than its best shortcut (length): on 12" in verdict.sentence
    assert "they differ in 8, of which the reward wins 8 (sign test, p = 0.0078)" in verdict.sentence


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (8, 2, 112 / 1024),  # 2 (1 + 10 + 45) / 2^10: more often right, but not significantly
        (2, 10, 158 / 4096),  # 2 (1 + 12 + 66) / 2^12: significantly worse
        (0, 0, 1.0),
    ],
)
def test_a_reward_no_better_than_its_shortcuts(wins: int, losses: int, p: float) -> None:
    right = [0.0] * wins + [1.0] * (losses + 5)
    audit = audit_with({"end token": [0.0] * len(right), "first tokens": right})
    rewards = {f"k{n}": (0.0, 1.0) if wins <= n < wins + losses else (1.0, 0.0) for n in range(len(right))}
    verdict = judge_reward(audit, rewards)
    assert verdict is not None
    assert (verdict.verdict, verdict.shortcut) == ("no better than its shortcuts", "first tokens")
    assert (verdict.reward_only, verdict.shortcut_only, verdict.p) == (wins, losses, pytest.approx(p))
    assert "The reward is no better than its best shortcut (first tokens)" in verdict.sentence


def test_a_tie_of_the_reward_is_half_right() -> None:
    audit = audit_with({"length": [0.0] * 3 + [1.0] * 9})
    verdict = judge_reward(audit, {f"k{n}": (1.0, 1.0) for n in range(12)})
    assert verdict is not None
    assert (verdict.reward_accuracy, verdict.reward_only, verdict.shortcut_only) == (share_interval(6, 12), 3, 9)


def test_only_pairs_with_a_reward_are_compared() -> None:
    """The best shortcut is chosen on all pairs, and compared on three of them, whatever their order."""
    audit = audit_with({"length": [1.0] * 9 + [0.0] * 3, "end token": [0.5] * 12})
    verdict = judge_reward(audit, {"k11": (1.0, 0.0), "k0": (0.0, 1.0), "k9": (1.0, 0.0)})
    assert verdict is not None
    assert (verdict.shortcut, verdict.pairs, verdict.reward_only, verdict.shortcut_only) == ("length", 3, 2, 1)
    assert judge_reward(audit, {}) is None
    with pytest.raises(ValueError, match="1 of 2 rewards"):
        judge_reward(audit, {"k1": (1.0, 0.0), "other": (1.0, 0.0)})


def write_samples(stage: Path, pairs: Sequence[Pair], heldout: int) -> None:
    """Rows as the sample phase writes them; the last `heldout` are held out."""
    write_rows(
        stage / "samples.jsonl.gz",
        (
            {
                "key": pair.key,
                "heldout": number >= len(pairs) - heldout,
                "finished": pair.sample.finished,
                **dict.fromkeys(("prompt", "demonstration", "sample"), "text"),
                "prompt_ids": pair.prompt_ids,
                "demo_ids": pair.demo.ids,
                "demo_finished": pair.demo.finished,
                "sample_ids": pair.sample.ids,
            }
            for number, pair in enumerate(pairs)
        ),
    )


def some_pairs(count: int) -> list[Pair]:
    """Samples are longer; every fifth one is cut off."""
    rng = random.Random(9)
    return [
        pair(n, response(rng, rng.randint(5, 20)), response(rng, rng.randint(30, 60), finished=n % 5 > 0))
        for n in range(count)
    ]


def test_a_run_with_a_reward_model(tmp_path: Path) -> None:
    """Of 40 pairs 32 are usable, of these 16 held out. The shortcut of length is right in all, the reward in 10."""
    pairs = some_pairs(40)
    write_samples(tmp_path / "stages" / "00", pairs, heldout=20)
    usable = [pair.sample.finished for pair in pairs]
    right = [n % 5 in {0, 1, 2, 3} and n < 33 for n in range(40)]
    write_rows(
        tmp_path / "stages" / "00" / "rewards.jsonl.gz",
        (
            {"key": pair.key, "heldout": n >= 20, "usable": usable[n], "demo_length": 1, "sample_length": 1}
            | {"demo_reward": 0.0, "sample_reward": -1.0 if right[n] else 1.0}
            for n, pair in enumerate(pairs)
        ),
    )
    [(stage, audit, verdict)] = audit_run(tmp_path)
    assert stage == 0
    assert audit is not None
    assert audit.keys == tuple(pair.key for pair in pairs if pair.sample.finished)
    assert verdict is not None
    assert (verdict.shortcut, verdict.shortcut_accuracy) == ("length", share_interval(16, 16))
    expected = sum(right[n] and usable[n] for n in range(20, 40))
    assert (verdict.pairs, verdict.reward_accuracy) == (16, share_interval(expected, 16))
    assert (verdict.reward_only, verdict.shortcut_only) == (0, 16 - expected)
    assert verdict.verdict == "no better than its shortcuts"


def test_a_run_with_implicit_rewards_in_one_stage(tmp_path: Path) -> None:
    """All pairs are audited, cut-off ones too; a stage without rewards has no verdict, one with few pairs no audit."""
    pairs = some_pairs(30)
    for stage, count in (("00", 30), ("01", 30), ("02", 5)):
        write_samples(tmp_path / "stages" / stage, pairs[-count:], heldout=5)
    write_rows(
        tmp_path / "stages" / "01" / "implicit.jsonl.gz",
        ({"key": pair.key, "demo_reward": 1.0, "sample_reward": 0.5} for pair in pairs[25:]),
    )
    (_, first, no_verdict), (number, second, verdict), (_, no_audit, nothing) = audit_run(tmp_path)
    assert first is not None
    assert first == second
    assert first.keys == tuple(pair.key for pair in pairs)
    assert (no_verdict, no_audit, nothing) == (None, None, None)
    assert number == 1
    assert verdict is not None
    assert (verdict.pairs, verdict.reward_accuracy.value, verdict.p) == (5, 1.0, 1.0)


def test_a_run_without_samples_and_no_run(tmp_path: Path) -> None:
    assert audit_run(tmp_path) == []
    with pytest.raises(DemotuneError, match="is no folder"):
        audit_run(tmp_path / "none")


def test_an_audit_has_all_held_out_pairs_and_not_too_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the smallest keys, in their order; the pairs of one key stay together where they fit."""
    monkeypatch.setattr(shortcuts, "AUDITED", 3)
    rows = [(False, "d"), (False, "a"), (True, "z"), (False, "b"), (False, "b"), (False, "c"), (True, "y")]
    found = not_too_many(iter(rows), lambda row: row)
    assert found == [(False, "a"), (True, "z"), (False, "b"), (False, "b"), (True, "y")]
    assert not_too_many(rows[:3], lambda row: row) == rows[:3]
    assert not_too_many([], lambda row: row) == []


def test_a_large_run_is_audited_on_some_of_its_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "stages" / "00", some_pairs(60), heldout=12)
    ((_, whole, _),) = audit_run(tmp_path)
    monkeypatch.setattr(shortcuts, "AUDITED", 20)
    ((_, some, _),) = audit_run(tmp_path)
    assert whole is not None
    assert some is not None
    assert (len(whole.keys), len(some.keys)) == (60, 32)
    training = [key for key in whole.keys if key in set(whole.keys[:-12])]
    assert some.keys[:20] == tuple(key for key in training if key in sorted(training)[:20])
    assert some.keys[20:] == whole.keys[-12:]
