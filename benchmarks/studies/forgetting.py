"""E6: at equal new skill, which method forgets least of what the start model could do?

World: toy.py, whose start model has learned a second task, to reverse six letters. The new skill is the habit
study's goal; what is kept is the log-likelihood, per token, of held-out rows of the start model's pretraining: 256
of the second task, and about as many of its usual texts, those with the habit left out.

Rules, the same for every method, written before any test prompt was read
* Settings are chosen for each method, control and seed on validation prompts, temperature 1 throughout: among those
  whose goal is at least SKILL, the one that forgets least (the highest log-likelihood, "kept", in nats per token).
  A family of which no setting reaches SKILL with some seed takes no part.
* Validation and test rows of the pretraining data are other ones. Test rows are read once, by the chosen settings.
* Controls: SFT over rate x passes, LoRA SFT, SFT with a KL penalty to the start model. Best of n changes no model
  and forgets nothing: no competitor.
* Eight seeds, paired, against the best control by its mean on validation prompts; Holm over all comparisons. The
  goal that each reached stands beside it.
"""

from functools import cache, partial

from benchmarks.studies import letters, toy
from benchmarks.studies.families import Ladder
from benchmarks.studies.frame import Row, Rule, Study
from benchmarks.studies.world import Part, World

SKILL = 0.76
AT_ONE = (1.0,)


@cache
def pretraining_rows(part: Part) -> list[dict[str, str]]:
    """About as many of the second task as of the first."""
    return letters.reversals(0, part, 256) + letters.usual_texts(0, part, 480)


def skilled(row: Row, start: Row) -> bool:
    return row.measures["goal"] >= SKILL


WORLD = World(
    name="forgetting",
    make_start=partial(toy.pretrain, second_task=True),
    write_data=letters.write_seed,
    questions=letters.questions,
    gold=letters.gold,
    longest=16,
    general=pretraining_rows,
)
LADDER = Ladder(rates=(3e-4, 1e-3, 3e-3), passes=(5, 10, 20, 40, 80, 240), temperatures=AT_ONE)

STUDY = Study(
    name="forgetting",
    text=__doc__ or "",
    world=WORLD,
    families=(
        *LADDER.families(),
        LADDER.lora((1e-3, 3e-3), (10, 20, 40, 80, 160), AT_ONE),
        LADDER.anchored(1e-3, (0.1, 0.5), AT_ONE),
        LADDER.irft([{"learning_rate": rate, "stages": 4, "steps_per_stage": 15} for rate in (3e-4, 1e-3)], AT_ONE),
        LADDER.rft(
            "RFT, linear reward",
            [{"learning_rate": rate, "beta": 0.2, "backbone": "start"} for rate in (3e-4, 1e-3)],
            (10, 20, 30),
            AT_ONE,
            reward_kind="linear",
        ),
    ),
    rules=(Rule("equal skill", f"least forgotten among settings with a goal of at least {SKILL}", "kept", skilled),),
    quality="kept",
    shown=("goal", "general_nll"),
)
