"""E4: do prompts without demonstrations help where they are unlike the demonstrated ones?

World: toy.py, whose start model has learned to be asked for 2 to 8 letters. Demonstrations (24, and 8 held out) ask
for 2 to 4, the 512 prompts without demonstrations for 5 to 8, as do the validation and test prompts; 128 more ask
for 2 to 4 ("near").

Rules, the same for every method, written before any test prompt was read
* As in the habit study: settings are chosen on validation prompts (5 to 8 letters) by the mean of habit-free and
  asked, once freely, once among settings of at least the SFT start's entropy; near prompts play no role.
* Controls: SFT over rate x passes x temperature, LoRA SFT, SFT with a KL penalty, best of n by likelihood and by
  SFT's log-ratio. What distant prompts themselves are worth is the difference between RFT on them and RFT on the
  prompts of the demonstrations, with the same reward and steps: a control too.
* Eight seeds, paired, against the best control by its mean on validation prompts; Holm over all comparisons.
"""

from functools import cache, partial

from benchmarks.studies import letters, toy
from benchmarks.studies.families import Ladder
from benchmarks.studies.frame import Study
from benchmarks.studies.habit import RULES, SAMPLED, TEMPERATURES
from benchmarks.studies.picking import by_gold, by_likelihood, by_linear, by_log_ratio
from benchmarks.studies.world import Part, World

NEAR, FAR = (2, 3, 4), (5, 6, 7, 8)


@cache
def far(part: Part) -> list[dict[str, str]]:
    return letters.questions(part, FAR)


@cache
def near(part: Part) -> list[dict[str, str]]:
    return letters.questions(part, NEAR, 128)


WORLD = World(
    name="distant",
    make_start=partial(toy.pretrain, asked=(*NEAR, *FAR)),
    write_data=partial(letters.write_seed, near=NEAR, far=FAR),
    questions=far,
    gold=letters.gold,
    longest=16,
    near=near,
)
LADDER = Ladder(rates=(3e-4, 1e-3), passes=(5, 10, 20, 40, 240), temperatures=TEMPERATURES)
LINEAR = [{"learning_rate": 1e-3, "beta": 0.2, "backbone": "start"}]

STUDY = Study(
    name="distant",
    text=__doc__ or "",
    world=WORLD,
    families=(
        *LADDER.families(),
        LADDER.lora((1e-3,), (10, 40, 160), TEMPERATURES),
        LADDER.anchored(1e-3, (0.3,), TEMPERATURES),
        LADDER.best_of("best of n, likelihood", "control", by_likelihood, (4, 16), SAMPLED),
        LADDER.best_of("best of n, log-ratio", "control", by_log_ratio, (4, 16), SAMPLED),
        LADDER.rft(
            "RFT, near prompts",
            LINEAR,
            (15, 30),
            TEMPERATURES,
            "control",
            reward_kind="linear",
            prompts=(),
        ),
        LADDER.best_of("best of n, linear", "method", by_linear(), (4, 16), SAMPLED),
        LADDER.best_of("gold count", "oracle", by_gold, (4, 16), SAMPLED),
        LADDER.rft("RFT, distant prompts", LINEAR, (15, 30), TEMPERATURES, reward_kind="linear"),
    ),
    rules=RULES,
    quality="goal",
    shown=("habit_free", "asked", "near_goal", "fluent"),
)
