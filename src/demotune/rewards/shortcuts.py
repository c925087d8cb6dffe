"""How far a pair's surface gives the demonstration away, and whether a learned reward does better than that.

A reward learned from demonstrations and samples may learn no more than that samples are longer, are cut off, or begin
with other words. So each such shortcut gets a small reward of its own, trained as reward models are: logistic
regression on the difference of the two sides' features (Bradley and Terry). It is judged on prompts that it was not
trained on.

Models of different folds share most of their training pairs, so these intervals are somewhat narrow: where nothing
separates the sides, 95% intervals of accuracy held 0.5 in 85% to 98% of simulated audits (100 and 200 prompts), those
of AUC in 82% to 93%.

The end-of-turn token and the cut at the length limit are one shortcut here: a response without that token is one that
was cut off (`records.Response`), whether a demonstration or a sample.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from demotune.common.errors import DemotuneError
from demotune.common.statistics import Interval, share_interval
from demotune.records import Pair, Response
from demotune.runs.heldout import win
from demotune.runs.rows import ImplicitRow, RewardRow, SampleRow
from demotune.runs.shortcuts import RewardVerdict, Shortcut
from demotune.runs.stage_reader import begun_stages

Floats = NDArray[np.float64]
Keyed = TypeVar("Keyed", SampleRow, RewardRow | ImplicitRow)
Row = TypeVar("Row")
Features = dict[str, float]

FEW_PROMPTS = 10
"""With fewer prompts nothing is said: intervals would reach from none to all."""
AUDITED = 5000
"""Training pairs of an audit, at most: with more its intervals, by resampling, would take hours."""
FOLDS = 5
EDGE_TOKENS = 3
RESAMPLES = 2000
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True)
class ShortcutAudit:
    """All shortcuts on the same pairs."""

    prompts: int
    """Different ones; a prompt with several pairs is in one fold."""
    keys: tuple[str, ...]
    """Of the pairs."""
    shortcuts: tuple[Shortcut, ...]
    right: tuple[tuple[float, ...], ...]
    """For each shortcut, for each pair: 1, 0.5 (a tie) or 0."""

    @property
    def best(self) -> tuple[Shortcut, tuple[float, ...]]:
        """The one with the highest accuracy, of equal ones the first, and which pairs it gets right."""
        return max(zip(self.shortcuts, self.right, strict=True), key=lambda both: both[0].accuracy.value)


def audit_shortcuts(pairs: Sequence[Pair]) -> ShortcutAudit | None:
    """How well length, end token, first and last tokens separate demonstration from sample; None under 10 prompts.

    Features: "length" is log2 of the tokens and in which half octave it falls, so that neither end need be better;
    "end token" is `finished`; "first tokens" and "last tokens" are the three at either edge with their places, the end
    token left out. The same pairs give the same numbers.
    """
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(pair.prompt_ids for pair in pairs))}
    if len(prompts) < FEW_PROMPTS:
        return None
    groups = [prompts[pair.prompt_ids] for pair in pairs]
    folds = [test for _, test in GroupKFold(FOLDS).split(groups, groups=groups)]
    found = [_shortcut(name, features, pairs, folds) for name, features in SHORTCUTS.items()]
    shortcuts, right = zip(*found, strict=True)
    return ShortcutAudit(len(prompts), tuple(pair.key for pair in pairs), shortcuts, right)


def judge_reward(audit: ShortcutAudit, rewards: Mapping[str, tuple[float, float]]) -> RewardVerdict | None:
    """Is the reward better than the best shortcut? Not significantly better (5%) is no better.

    rewards: pair key -> reward of (demonstration, sample), of pairs in the audit that the reward was not trained on.
    None without such pairs. Raises ValueError for a key that the audit does not have.
    """
    if unknown := rewards.keys() - set(audit.keys):
        raise ValueError(f"{len(unknown)} of {len(rewards)} rewards are of pairs that the audit does not have")
    if not rewards:
        return None
    best, right_by_pair = audit.best
    judged = [(rewards[key], right) for key, right in zip(audit.keys, right_by_pair, strict=True) if key in rewards]
    of_reward = [win(demo, sample) for (demo, sample), _ in judged]
    of_shortcut = [right for _, right in judged]
    reward_only, shortcut_only = (
        sum(one > other for one, other in zip(*sides, strict=True))
        for sides in ((of_reward, of_shortcut), (of_shortcut, of_reward))
    )
    discordant = reward_only + shortcut_only
    p = float(stats.binomtest(reward_only, discordant).pvalue) if discordant else 1.0
    accuracy, shortcut_accuracy = (share_interval(sum(right), len(right)) for right in (of_reward, of_shortcut))
    better = reward_only > shortcut_only and p < SIGNIFICANCE
    return RewardVerdict(
        verdict="better than its shortcuts" if better else "no better than its shortcuts",
        shortcut=best.name,
        pairs=len(judged),
        reward_accuracy=accuracy,
        shortcut_accuracy=shortcut_accuracy,
        reward_only=reward_only,
        shortcut_only=shortcut_only,
        p=p,
        sentence=(
            f"The reward is {'better' if better else 'no better'} than its best shortcut ({best.name}): on "
            f"{len(judged)} held-out pairs it prefers the demonstration in {accuracy.value:.0%}, the shortcut in "
            f"{shortcut_accuracy.value:.0%}; they differ in {discordant}, of which the reward wins {reward_only} "
            f"(sign test, p = {p:.2g})."
        ),
    )


def audit_run(run_folder: Path) -> list[tuple[int, ShortcutAudit | None, RewardVerdict | None]]:
    """(stage, shortcuts of its pairs, its reward against them) for every stage of a run that has samples.

    Of several pairs with one demonstration the first is taken, and of training pairs at most AUDITED; of runs that read
    answers only, the answers. Training and held-out pairs are audited together, each by models that have not seen its
    prompt; the reward is judged on held-out pairs. RFT's pairs are those that its reward may see (`usable`); held-out
    pairs chose the step at which its reward stopped, which flatters it a little. No verdict where the stage kept no
    rewards of held-out pairs; no audit with too few prompts. Raises DemotuneError where there is no such folder.
    """
    if not run_folder.is_dir():
        raise DemotuneError(f"{run_folder} is no folder; name the folder of a run")
    found: list[tuple[int, ShortcutAudit | None, RewardVerdict | None]] = []
    for stage in begun_stages(run_folder):
        pairs = (row for row in stage.iter_sample_rows() if not row.equal)
        if stage.reward_rows:
            pairs = (row for row, judged in zip(pairs, stage.reward_rows, strict=True) if judged.usable)
        audited = not_too_many(_first_of_each(pairs), lambda row: (row.heldout, row.key))
        audit = audit_shortcuts([_as_read(row, explicit=bool(stage.reward_rows)) for row in audited])
        rewards: Iterator[RewardRow | ImplicitRow] = _first_of_each(
            chain((row for row in stage.reward_rows if row.heldout and row.usable), stage.implicit_rows)
        )
        of_pairs = {row.key: (row.demo_reward, row.sample_reward) for row in rewards}
        found.append((stage.number, audit, judge_reward(audit, of_pairs) if audit else None))
    return found


def _as_read(row: SampleRow, *, explicit: bool) -> Pair:
    """The pair as the stage's reward reads it: of runs that read answers only, the answers.

    A sample without an answer is nothing to a reward model, and to an implicit reward what it is.
    """
    pair = row.pair.answers
    return replace(pair, sample=Response((), finished=False)) if explicit and row.unanswered else pair


def not_too_many(rows: Iterable[Row], name: Callable[[Row], tuple[bool, str]]) -> list[Row]:
    """All held-out rows, and of the others at most AUDITED, those with the smallest keys; in their order.

    `name` gives (whether it is held out, its key). Keys are hashes, so that the rows are drawn at random, always the
    same ones.
    """
    heldout: list[tuple[int, Row]] = []

    def others() -> Iterator[tuple[str, int, Row]]:
        for place, row in enumerate(rows):
            is_heldout, key = name(row)
            if is_heldout:
                heldout.append((place, row))
            else:
                yield key, place, row

    smallest = heapq.nsmallest(AUDITED, others(), key=lambda found: found[:2])
    chosen = [*heldout, *((place, row) for _, place, row in smallest)]
    return [row for _, row in sorted(chosen, key=lambda both: both[0])]


def _first_of_each(rows: Iterable[Keyed]) -> Iterator[Keyed]:
    """The first row of each key: one pair a demonstration, so that intervals and tests are over demonstrations.

    Rows of one key follow each other.
    """
    return (next(group) for _, group in groupby(rows, key=lambda row: row.key))


def _length(response: Response) -> Features:
    octaves = math.log2(max(len(response.ids), 1))
    return {"log2 of length": octaves, f"length from 2^{math.floor(2 * octaves) / 2}": 1.0}


def _end_token(response: Response) -> Features:
    return {"finished": float(response.finished)}


def _first_tokens(response: Response) -> Features:
    first = _text_ids(response)[:EDGE_TOKENS]
    return {f"token {place}: {token}": 1.0 for place, token in enumerate(first, start=1)} or {"no token": 1.0}


def _last_tokens(response: Response) -> Features:
    last = reversed(_text_ids(response)[-EDGE_TOKENS:])
    return {f"token -{place}: {token}": 1.0 for place, token in enumerate(last, start=1)} or {"no token": 1.0}


def _text_ids(response: Response) -> tuple[int, ...]:
    return response.ids[:-1] if response.finished else response.ids


def _everything(response: Response) -> Features:
    return _length(response) | _end_token(response) | _first_tokens(response) | _last_tokens(response)


SHORTCUTS: Mapping[str, Callable[[Response], Features]] = {
    "length": _length,
    "end token": _end_token,
    "first tokens": _first_tokens,
    "last tokens": _last_tokens,
    "all together": _everything,
}


def _shortcut(
    name: str, features: Callable[[Response], Features], pairs: Sequence[Pair], folds: Sequence[NDArray[np.intp]]
) -> tuple[Shortcut, tuple[float, ...]]:
    """Train on all folds but one, judge on that one, for each; also which pairs it gets right."""
    demo, sample = np.zeros(len(pairs)), np.zeros(len(pairs))
    for test in folds:
        train = np.setdiff1d(np.arange(len(pairs)), test)
        score = _fit([pairs[number] for number in train], features)
        demo[test] = score([pairs[number].demo for number in test])
        sample[test] = score([pairs[number].sample for number in test])
    right = tuple(win(*both) for both in zip(demo.tolist(), sample.tolist(), strict=True))
    auc = _auc_interval([(demo[test], sample[test]) for test in folds])
    return Shortcut(name, auc, share_interval(sum(right), len(right))), right


def _fit(pairs: Sequence[Pair], features: Callable[[Response], Features]) -> Callable[[Sequence[Response]], Floats]:
    """A linear score of responses, by logistic regression on differences of the two sides' features."""
    vectorizer = DictVectorizer()
    sides = vectorizer.fit_transform([features(side) for pair in pairs for side in (pair.demo, pair.sample)])
    signs = np.where(np.arange(len(pairs)) % 2, 1.0, -1.0)  # scikit-learn wants two classes; the likelihood is the same
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit((sides[::2] - sides[1::2]).multiply(signs[:, None]).tocsr(), signs)
    return partial(_score, model, vectorizer, features)


def _score(
    model: LogisticRegression,
    vectorizer: DictVectorizer,
    features: Callable[[Response], Features],
    responses: Sequence[Response],
) -> Floats:
    scores: Floats = model.decision_function(vectorizer.transform([features(response) for response in responses]))
    return scores.round(9)  # sums that differ in their last bit are a tie


def _auc_interval(folds: Sequence[tuple[Floats, Floats]]) -> Interval:
    """Mean AUC within folds, for models of different folds have different scales; prompts are drawn within folds."""
    weights = np.array([len(demo) for demo, _ in folds]) / sum(len(demo) for demo, _ in folds)
    drawn = [
        stats.bootstrap(
            fold,
            _auc,
            n_resamples=RESAMPLES,
            batch=100,
            paired=True,
            vectorized=True,
            method="percentile",
            random_state=np.random.default_rng(number),
        ).bootstrap_distribution
        for number, fold in enumerate(folds)
    ]
    low, high = np.quantile(weights @ np.stack(drawn), [0.025, 0.975])
    return Interval(float(weights @ [_auc(*fold) for fold in folds]), float(low), float(high))


def _auc(demo: Floats, sample: Floats, axis: int = -1) -> Floats:
    """Area under the ROC curve along `axis`, by Mann and Whitney's rank sum; a tie is half."""
    count = demo.shape[axis]
    ranks = stats.rankdata(np.concatenate([demo, sample], axis=axis), axis=axis)
    rank_sum = np.take(ranks, np.arange(count), axis=axis).sum(axis=axis)
    area: Floats = (rank_sum - count * (count + 1) / 2) / count**2
    return area
