"""E2: is a learned reward useful without training, by best of n?

World and SFT start: those of the habit study. The best of n = 1, 2, 4, 8, 16 responses of the SFT start, by a
linear reward, by a full reward model, by SFT's log-ratio, by likelihood, by chance.

Rules, the same for every reward, written before any test prompt was read
* Settings (of a reward and its temperature) are chosen on validation prompts for each seed by the mean of habit-
  free and asked, once with at most 4 responses an answer, once with at most 16, and once with at most 16 and an
  entropy of at least that of the SFT start at temperature 1. Test prompts are read once.
* Controls: the SFT start at its best temperature; likelihood, log-ratio and chance as rewards; SFT on best of
  n by the linear reward, which costs one response.
* Eight seeds; each learned reward is compared with the best control by its mean on validation prompts, paired by
  seed, Holm over all comparisons. The gold count as the reward shows headroom and is compared with nothing.
"""

from benchmarks.studies.frame import Bench, Rule, Study
from benchmarks.studies.habit import DISTILLED, LADDER, TEMPERATURES, WORLD, as_varied
from benchmarks.studies.picking import (
    Score,
    by_chance,
    by_gold,
    by_likelihood,
    by_linear,
    by_log_ratio,
    by_reward_model,
)
from benchmarks.studies.training import Trained, rft

COUNTS = (1, 2, 4, 8, 16)
SAMPLED = (1.4, 1.2, 1.0, 0.7)


def full_reward(rate: float, epochs: float) -> Score:
    """The reward model of an RFT run that takes one policy batch."""

    def score(bench: Bench, policy: Trained, completions: list) -> list[float]:  # type: ignore[type-arg]
        name = f"full-reward-{rate:g}-{epochs:g}"
        rft(bench, name, policy, (1,), reward_learning_rate=rate, reward_epochs=epochs)
        return list(by_reward_model(bench.folder / name / "reward")(bench, policy, completions))

    return score


STUDY = Study(
    name="best_of",
    text=__doc__ or "",
    world=WORLD,
    families=(
        LADDER.start_family(),
        LADDER.tempered(),
        LADDER.best_of("chance", "control", by_chance, COUNTS, SAMPLED),
        LADDER.best_of("likelihood", "control", by_likelihood, COUNTS, SAMPLED),
        LADDER.best_of("log-ratio", "control", by_log_ratio, COUNTS, SAMPLED),
        LADDER.distilled("linear", "control", by_linear(), DISTILLED, TEMPERATURES),
        LADDER.best_of("linear, states of the start model", "method", by_linear("start"), COUNTS, SAMPLED),
        LADDER.best_of("linear, states of SFT", "method", by_linear("sft"), COUNTS, SAMPLED),
        LADDER.best_of("linear, against both", "method", by_linear("start", "both"), COUNTS, SAMPLED),
        LADDER.best_of("full reward", "method", full_reward(1e-3, 10.0), COUNTS, SAMPLED),
        LADDER.best_of("gold count", "oracle", by_gold, COUNTS, SAMPLED),
    ),
    rules=(
        Rule("at most 4", "the highest goal, at most 4 responses", "goal", lambda row, start: row.answers <= 4),
        Rule("at most 16", "the highest goal", "goal"),
        Rule("as varied", "the highest goal of at least the start's entropy", "goal", as_varied),
    ),
    quality="goal",
    shown=("habit_free", "asked", "fluent"),
)
