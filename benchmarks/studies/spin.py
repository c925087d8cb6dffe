"""E5: is SPIN, which is IRFT in one stage, a stronger control in the world of the habit study?

World, demonstrations, SFT start and rules are those of the habit study, and SPIN has as many settings and steps as IRFT
had there. This study was added after the test prompts of that study had been read, so that SPIN stands beside its
results too; no setting was changed after a look.

Rules, the same for every method, written before any test prompt was read by a setting of this study
* Settings, temperature among them, are chosen for each method, control and seed on validation prompts by the mean
  of habit-free and asked: once freely, once among settings of at least the SFT start's entropy.
* SPIN: 60 steps in one stage; fewer were not tried. The SFT start is made again, and measured at each temperature: the
  control. Where its rows are those of the habit study, SPIN is compared with that study's controls and methods too.
* Eight seeds, paired; Holm over all comparisons of this study.
"""

from dataclasses import replace

from benchmarks.studies.families import grid
from benchmarks.studies.frame import Study
from benchmarks.studies.habit import LADDER, RULES, TEMPERATURES, WORLD

STUDY = Study(
    name="spin",
    text=__doc__ or "",
    world=WORLD,
    families=(
        LADDER.start_family(),
        LADDER.tempered(),
        replace(
            LADDER.irft(grid(learning_rate=(3e-4, 1e-3), stages=(1,), steps_per_stage=(60,)), TEMPERATURES),
            name="SPIN",
        ),
    ),
    rules=RULES,
    quality="goal",
    shown=("habit_free", "asked", "fluent"),
)
