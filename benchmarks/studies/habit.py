"""E1: does a learned reward, and RFT with it, remove a habit that demonstrations never show, at unchanged variety?

World: toy.py. 24 demonstrations to train on, 8 held out, 512 prompts without demonstrations; 256 prompts to measure
on.

Questions
* Does a reward that is learned from few demonstrations, and RFT with it, remove the habit at unchanged variety?
* Is that reward useful without training, by best of n?
* Does either hold against SFT's best rate, passes and temperature?

Rules, the same for every method, written before any test prompt was read
* Settings, temperature among them, are chosen for each method, control and seed on validation prompts by the mean
  of habit-free and asked: once freely, once among settings whose entropy is at least that of the SFT start at
  temperature 1. Test prompts are read once, by the chosen settings.
* The SFT start, from which IRFT, RFT and best of n go on, is the rung of SFT's grid that finds the held-out
  demonstrations likeliest.
* RFT takes its policy steps whatever its check of the reward says (`--force`): the question is whether they help.
* Controls: SFT over rate x passes x temperature, whose longest rungs take at least as many seconds as RFT; LoRA
  SFT; SFT with a KL penalty to the start model; SFT with the loss psft; best of n by likelihood and by SFT's own
  log-ratio; SFT on the best of 8 by log-ratio. SFT on the best of 8 by the linear reward learns a reward, so it counts
  as a method: where RFT is not above it, policy gradients are not needed.
* Eight seeds, each with demonstrations of its own and the same test prompts. Each method is compared with the best
  control, by that control's mean on validation prompts; differences are paired by seed, Holm over all comparisons.
  Likelihood of fresh demonstrations, entropy and seconds stand beside every gain.
* A gain that a lower temperature of SFT reaches too is no gain: SFT's temperature is one of its settings. Every
  setting tried is kept and counted.
"""

from benchmarks.studies import letters, toy
from benchmarks.studies.families import Ladder, grid
from benchmarks.studies.frame import Row, Rule, Study
from benchmarks.studies.picking import by_likelihood, by_linear, by_log_ratio
from benchmarks.studies.world import World

WORLD = World(
    name="habit",
    make_start=toy.pretrain,
    write_data=letters.write_seed,
    questions=letters.questions,
    gold=letters.gold,
    longest=16,
)
SAMPLED = (1.4, 1.2, 1.0)
"""Temperatures of best of n."""
TEMPERATURES = (1.4, 1.2, 1.0, 0.8, 0.6, 0.4)
LADDER = Ladder(rates=(3e-4, 1e-3, 3e-3), passes=(5, 10, 20, 40, 240), temperatures=TEMPERATURES)
DISTILLED = grid(n=(8,), rate=(3e-4, 1e-3), passes=(8,))


def as_varied(row: Row, start: Row) -> bool:
    return row.measures["entropy"] >= start.measures["entropy"]


RULES = (
    Rule("freely", "the highest goal", "goal"),
    Rule("as varied", "the highest goal among settings of at least the SFT start's entropy", "goal", as_varied),
)

STUDY = Study(
    name="habit",
    text=__doc__ or "",
    world=WORLD,
    families=(
        *LADDER.families(),
        LADDER.lora((1e-3, 3e-3), (10, 40, 80), TEMPERATURES),
        LADDER.anchored(1e-3, (0.1, 0.5), TEMPERATURES),
        LADDER.with_loss("psft", (1e-3,), TEMPERATURES),
        LADDER.best_of("best of n, likelihood", "control", by_likelihood, (4, 16), SAMPLED),
        LADDER.best_of("best of n, log-ratio", "control", by_log_ratio, (4, 16), SAMPLED),
        LADDER.distilled("log-ratio", "control", by_log_ratio, DISTILLED, TEMPERATURES),
        LADDER.distilled("linear", "method", by_linear(), DISTILLED, TEMPERATURES),
        LADDER.best_of("best of n, linear", "method", by_linear(), (4, 16), SAMPLED),
        LADDER.irft(
            [{"learning_rate": rate, "stages": 4, "steps_per_stage": 15} for rate in (3e-4, 1e-3)], TEMPERATURES
        ),
        LADDER.rft(
            "RFT, full reward",
            [{"learning_rate": 1e-3, "beta": 0.05}],
            (15, 30),
            TEMPERATURES,
            reward_learning_rate=1e-3,
            reward_epochs=10.0,
        ),
        LADDER.rft(
            "RFT, linear reward",
            [
                {"learning_rate": 1e-3, "beta": beta, "backbone": backbone}
                for beta in (0.1, 0.3)
                for backbone in ("start", "sft")
            ],
            (15, 30),
            TEMPERATURES,
            reward_kind="linear",
        ),
        LADDER.rft(
            "RFT, linear reward, against both",
            [{"learning_rate": 1e-3, "beta": 0.2, "backbone": "start"}],
            (15, 30),
            TEMPERATURES,
            reward_kind="linear",
            reward_negatives=("policy", "base"),
        ),
        LADDER.rft(
            "RFT, linear reward, co-trained",
            [{"learning_rate": 1e-3, "beta": 0.2, "backbone": "start", "reward_every": 5}],
            (15, 30),
            TEMPERATURES,
            reward_kind="linear",
        ),
    ),
    rules=RULES,
    quality="goal",
    shown=("habit_free", "asked", "fluent"),
)
