"""Answers of SFT and of every stage of the other methods to the test prompts, judged by reward models, seed by seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.common.statistics import Interval, over_seeds
from demotune.evaluation.subjects import short_names
from demotune.paper.making import METHODS, Making, leaks_of
from demotune.runs.evaluation import EvaluatedRow, Evaluation
from demotune.runs.file_names import MODEL
from demotune.runs.folder import RunFolder
from demotune.sweep.trials import Trial

KINDS = ("sft", "irft", "rft")
OURS = ("irft", "rft")

Key = tuple[str, int]
"""A method and a stage; 0 is the start model."""


@dataclass(frozen=True)
class JudgedSeed:
    """One seed's evaluation; the name under which it has SFT, and each stage."""

    evaluation: Evaluation
    sft: str
    stages: dict[Key, str]

    def reward(self, row: EvaluatedRow, name: str, judge: str) -> float | None:
        found = row.models[name]["rewards"].get(judge)
        return None if found is None else float(found)


@dataclass(frozen=True)
class Judged:
    """All seeds."""

    seeds: tuple[JudgedSeed, ...]
    judges: tuple[str, ...]
    selecting: str | None
    """The judge that selected the rows to train on."""

    @property
    def best_judge(self) -> str:
        """The one that samples are chosen by: the last one given, which did not select where another one can."""
        return self.judges[-1]

    def names(self, judge: str) -> str:
        note = ", which selected the training rows" if judge == self.selecting else ", which selected nothing"
        return f"the reward model {judge}{note}"

    @property
    def keys(self) -> list[Key]:
        """Stages that all seeds have."""
        return [key for key in self.seeds[0].stages if all(key in seed.stages for seed in self.seeds)]

    def rewards(self, key: Key | None, judge: str) -> list[list[float]]:
        """(seeds, prompts) of the answers of a stage, of SFT where `key` is None; prompts that all have a reward."""
        found = []
        for seed in self.seeds:
            name = seed.sft if key is None else seed.stages[key]
            of = {row.key: seed.reward(row, name, judge) for row in seed.evaluation.rows}
            found.append([of[prompt] for prompt in self._prompts(judge)])
        return found  # type: ignore[return-value]

    def _prompts(self, judge: str) -> list[str]:
        keys = [row.key for row in self.seeds[0].evaluation.rows]
        bad = {
            row.key
            for seed in self.seeds
            for row in seed.evaluation.rows
            for name in [seed.sft, *seed.stages.values()]
            if seed.reward(row, name, judge) is None
        }
        shared = set(keys).intersection(*({row.key for row in seed.evaluation.rows} for seed in self.seeds))
        return [key for key in keys if key in shared - bad]

    @property
    def leaks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(leak for seed in self.seeds for leak in leaks_of(seed.evaluation)))

    @property
    def warnings(self) -> tuple[str, ...]:
        partial = f"{self.selecting} selected the training rows: it is no impartial judge of models trained on them."
        noted = (partial,) if self.selecting is not None else ()
        said = [one for seed in self.seeds for one in seed.evaluation.warnings]
        said = [one for one in said if "abstained" in one or "no impartial" in one]
        own = f"{self.selecting} is no impartial judge"  # which `partial` says in fewer words
        said = [one for one in said if not one.startswith(own)]
        return (*noted, *dict.fromkeys(said))


def judge_stages(making: Making) -> Judged:
    """Answers and rewards; what is there already is used again."""
    sft, *others = making.settings(KINDS)
    seeds = [_one_seed(making, one, [trials[number] for trials in others]) for number, one in enumerate(sft)]
    judges = short_names(making.inputs.rewards)
    return Judged(tuple(seeds), tuple(judges), judges[0] if making.size.selected is not None else None)


def _one_seed(making: Making, sft: Trial, others: Sequence[Trial]) -> JudgedSeed:
    models: dict[Key, str] = {("start", 0): making.start_model}
    for trial in others:
        folder = RunFolder(trial.folder)
        for stage in folder.finished_stages:
            if (model := folder.stage(stage) / MODEL).is_dir():
                models[trial.config.method, stage + 1] = str(model)
    sources = [str(sft.folder), *models.values()]
    evaluation = making.evaluated(
        f"answers-{sft.config.seed}", model=sources[0], baseline=tuple(sources[1:]), reward=making.inputs.rewards,
        max_new_tokens=making.size.answer_tokens, seed=sft.config.seed, **making.on_preferences,
    )  # fmt: skip
    names = short_names(sources)
    return JudgedSeed(evaluation, names[0], dict(zip(models, names[1:], strict=True)))


def share_over_seeds(table: Sequence[Sequence[float]]) -> Interval:
    """A share over seeds and prompts, its interval within 0 and 1."""
    found = over_seeds(table)
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0)) if found.known else found


def title_of_stage(key: Key) -> str:
    method, stage = key
    return "start" if method == "start" else f"{METHODS[method]}, stage {stage}"
