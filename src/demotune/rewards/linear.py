"""A linear reward on a frozen backbone: logistic regression on what separates demonstrations from samples.

A response's columns are the backbone's last hidden state at its end, and, if asked for, named features. The reward is
their weighted sum; its weights maximise the likelihood that each demonstration beats its sample (Bradley and Terry),
less an L2 penalty. Only differences within a prompt count, so it has no intercept: its zero means nothing.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from torch import nn
from transformers import PreTrainedModel

from demotune.common.errors import DemotuneError
from demotune.common.statistics import FEWEST, Interval, accuracy_by_prompt, numbered, prompt_weights
from demotune.config.rft import FeatureName
from demotune.models.batches import Advance
from demotune.models.question import Question
from demotune.models.reward import RewardModel, reward_from_policy
from demotune.models.reward_facts import RewardFacts
from demotune.models.states import TOKENS_TOGETHER, end_states, followed_by
from demotune.records import Completion, Pair
from demotune.rewards.features import feature_table
from demotune.rewards.pair_selection import both_sides, distinct_sides, select_pairs

Floats = NDArray[np.float64]

FOLDS = 5
L2_GRID = tuple(10.0**exponent for exponent in range(-5, 2))
"""Penalties to choose from, per column: a sum of so many standardised columns grows with their number."""
CLOSE, EXACT = 1e-4, 1e-6
"""Largest slope of the objective that a fit stops at: to choose the penalty, and at the end."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a linear reward reads of a response: D hidden numbers of a frozen backbone, then the named features."""

    features: tuple[FeatureName, ...] = ()
    """Each response's own, beside its hidden state."""
    question: Question | None = None
    """Read after the response, at its last token; None: read at the response's own last token."""

    def of(
        self,
        backbone: nn.Module,
        completions: Sequence[Completion],
        *,
        pad_id: int,
        bf16: bool,
        budget: int = TOKENS_TOGETHER,
        advance: Advance = lambda _: None,
    ) -> Floats:
        """(N, D + F) the columns of each completion; `budget` bounds the tokens of one forward pass."""
        asked = followed_by(completions, self.question.ids if self.question else ())
        states = end_states(backbone, asked, pad_id=pad_id, bf16=bf16, budget=budget, advance=advance)
        named = np.array(feature_table(completions, self.features)).reshape(len(completions), len(self.features))
        return np.concatenate([states.double().numpy(), named], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class PairColumns:
    """Differing pairs as numbers: P rows of both sides, and the prompt of each."""

    demo: Floats
    """(P, D + F)."""
    sample: Floats
    prompts: tuple[Hashable, ...]
    equal: int = 0
    """Pairs left out because their sides are equal."""

    @property
    def differences(self) -> Floats:
        return self.demo - self.sample


@dataclass(frozen=True, slots=True, eq=False)
class LinearReward:
    """What was learned: the reward of columns x is sum_i weights_i * x_i / scale_i."""

    weights: Floats
    """(D + F,), of columns divided by `scale`."""
    scale: Floats
    """(D + F,): root mean square of each column's differences; 1 where a column never differs."""
    columns: Columns
    l2: float
    """The chosen penalty on |weights|^2 / 2, beside the mean loss per prompt in nats."""
    accuracy: Interval
    """Share of pairs whose demonstration earns more, a tie is half, each prompt counting once. On held-out pairs where
    there were any; else on the training prompts, each judged by a fit without it, which chose `l2` too."""
    heldout_prompts: int
    """How many prompts the accuracy is of when they were held out; 0 when it was cross-validated."""
    prompts: int
    pairs: int

    def score(self, columns: Floats) -> Floats:
        """(N, D + F) -> (N,): differences of two rewards to one prompt are log-odds, in nats."""
        rewards: Floats = columns @ (self.weights / self.scale)
        return rewards

    @property
    def feature_weights(self) -> dict[str, float]:
        """Of each named feature, in nats per unit of it; empty without named features."""
        start = len(self.weights) - len(self.columns.features)
        weights = self.weights[start:] / self.scale[start:]
        return dict(zip(self.columns.features, weights.tolist(), strict=True))

    def facts(self, template: str | None) -> RewardFacts:
        """What makes the rewards of the head into those of this reward: the question, and the weights of features."""
        return RewardFacts("logistic", None, template, self.columns.question, self.feature_weights)

    def as_head(self, backbone: PreTrainedModel, pad_id: int) -> RewardModel:
        """An ordinary sequence classifier with one label on the backbone itself, whose weights stay as they are.

        Of responses followed by the question it gives the same rewards, but for the named features, which are in
        `facts`. The backbone is the classifier's afterwards.
        """
        model = reward_from_policy(backbone, pad_id)
        head = (self.weights / self.scale)[: len(self.weights) - len(self.columns.features)]
        with torch.no_grad():
            cast(nn.Linear, model.score).weight.copy_(torch.from_numpy(head).unsqueeze(0))
        return model


def pair_columns(
    backbone: nn.Module,
    pairs: Sequence[Pair],
    columns: Columns,
    *,
    pad_id: int,
    bf16: bool,
    budget: int = TOKENS_TOGETHER,
    advance: Advance = lambda _: None,
) -> PairColumns:
    """The columns of all differing pairs; a demonstration with several samples is computed once."""
    chosen = select_pairs(pairs)
    if not chosen.pairs:
        return PairColumns(np.zeros((0, 0)), np.zeros((0, 0)), (), chosen.equal)
    different = distinct_sides(chosen.pairs)
    table = columns.of(backbone, different, pad_id=pad_id, bf16=bf16, budget=budget, advance=advance)
    place = {side: row for row, side in enumerate(different)}
    places = [place[side] for side in both_sides(chosen.pairs)]
    return PairColumns(
        demo=table[places[: len(chosen.pairs)]],
        sample=table[places[len(chosen.pairs) :]],
        prompts=tuple(pair.prompt_ids for pair in chosen.pairs),
        equal=chosen.equal,
    )


def fit_linear_reward(train: PairColumns, heldout: PairColumns | None, columns: Columns) -> LinearReward:
    """Fit on `train`: the penalty by cross-validation over prompts, then all pairs with it. Draws no random numbers.

    Each prompt weighs the same, however many pairs it has. Raises DemotuneError for fewer than 5 prompts whose sides
    differ.
    """
    prompts = len(set(train.prompts))
    if prompts < FEWEST:
        raise DemotuneError(
            f"only {prompts} prompts have a pair whose sides differ ({train.equal} pairs have equal sides), and a "
            f"linear reward needs {FEWEST}; give more prompts, or samples that differ from their demonstrations"
        )
    differences = train.differences
    weights = prompt_weights(train.prompts)
    scale = column_scale(train)
    l2, margins = _choose_l2(differences / scale, weights, train.prompts)
    fitted = _fit(differences / scale, weights, l2, np.zeros_like(scale), EXACT)
    judged_on_heldout = heldout is not None and len(heldout.prompts) > 0
    judged = train.prompts
    if heldout is not None and judged_on_heldout:
        margins, judged = heldout.differences @ (fitted / scale), heldout.prompts
    return LinearReward(
        weights=fitted,
        scale=scale,
        columns=columns,
        l2=l2,
        accuracy=accuracy_by_prompt(margins, judged),
        heldout_prompts=len(set(judged)) if judged_on_heldout else 0,
        prompts=prompts,
        pairs=len(train.prompts),
    )


def column_scale(pairs: PairColumns) -> Floats:
    """(D + F,) root mean square of each column's differences, each prompt counting once; 1 where it never differs."""
    weights = prompt_weights(pairs.prompts)
    scale: Floats = np.sqrt(weights @ pairs.differences**2 / weights.sum())
    scale[scale == 0] = 1.0
    return scale


def refit(
    start: Floats,
    fresh: Sequence[PairColumns],
    earlier: Sequence[PairColumns],
    *,
    scale: Floats,
    l2: float,
    replay: float,
) -> Floats:
    """(D + F,) weights that minimise (1 - replay) loss(fresh) + replay loss(earlier) + l2 |weights|^2 / 2.

    Each loss is the mean over its prompts of -log sigmoid(margin). `start`, the weights so far, is where the search
    begins; it is returned where there is no fresh pair.
    """
    parts = [[pairs for pairs in side if pairs.prompts] for side in (fresh, earlier)]
    if not parts[0]:
        return start
    prompts = [[prompt for pairs in side for prompt in pairs.prompts] for side in parts]
    shares = (1 - replay, replay)
    weights = [share * prompt_weights(own) / len(set(own)) for share, own in zip(shares, prompts, strict=True) if own]
    differences = np.concatenate([pairs.differences for side in parts for pairs in side])
    return _fit(differences / scale, np.concatenate(weights), l2, start, EXACT)


def _choose_l2(differences: Floats, weights: Floats, prompts: Sequence[Hashable]) -> tuple[float, Floats]:
    """The penalty with the lowest loss on prompts left out, of equal ones the largest, and their margins (P,) then."""
    groups = numbered(prompts)
    folds = list(GroupKFold(min(FOLDS, len(set(groups)))).split(groups, groups=groups))
    penalties = [penalty * differences.shape[1] for penalty in reversed(L2_GRID)]
    margins = np.zeros((len(penalties), len(differences)))
    for train, test in folds:
        start = np.zeros(differences.shape[1])
        for number, l2 in enumerate(penalties):  # each fit starts from the one before it, which is near
            start = _fit(differences[train], weights[train], l2, start, CLOSE)
            margins[number, test] = differences[test] @ start
    best = int(np.argmin(-log_expit(margins) @ weights))
    return penalties[best], margins[best]


def _fit(differences: Floats, weights: Floats, l2: float, start: Floats, tolerance: float) -> Floats:
    """(C,) minimising mean_prompts -log sigmoid(w . difference) + l2 |w|^2 / 2; `weights` are relative."""
    signs = np.where(np.arange(len(differences)) % 2, 1.0, -1.0)  # scikit-learn wants two classes; the loss is the same
    model = LogisticRegression(
        C=1 / (l2 * weights.sum()), fit_intercept=False, tol=tolerance, max_iter=1000, warm_start=True
    )
    model.coef_, model.intercept_ = start[None], np.zeros(1)
    model.fit(differences * signs[:, None], signs, sample_weight=weights)
    found: Floats = model.coef_[0]
    return found
