"""What a report does not show, said with its own numbers."""

from collections.abc import Iterator, Sequence

from demotune.common.amounts import plural
from demotune.common.statistics import FEWEST
from demotune.report.answer import headline_comparison
from demotune.report.facts import Fact
from demotune.report.gains import baseline_of, gain_of
from demotune.report.wording import duration, number
from demotune.runs.evaluation import Evaluation
from demotune.runs.file_names import stage_title
from demotune.runs.run import Run
from demotune.runs.settings import setting_keys

DETECTABLE = 2.8 / 1.96
"""Half of a 95% interval times this is the difference that a two-sided test at 5% finds with 80% power."""


def limits(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Fact]:
    """The limits of these results, the most important first."""
    found = [Fact("seeds", _seeds(runs))]
    found += [fact for run in runs for fact in _of_run(run, f"{run.name}: " if len(runs) > 1 else "")]
    found += _of_several(runs) if len(runs) > 1 else ()
    found += [fact for evaluation in evaluations for fact in _of_evaluation(evaluation)]
    found.append(
        Fact(
            "meaning",
            "Likelihood of demonstrations measures how well a policy imitates the demonstrations. It does not measure "
            "how useful its answers are, nor whether the demonstrations deserve to be imitated.",
        )
    )
    if not any(evaluation.tasks for evaluation in evaluations):
        found.append(Fact("abilities", "Other abilities were not measured: no task results were given."))
    found.append(Fact("cost", "Operations are computed from token counts and the number of parameters, not measured."))
    return found


def _seeds(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return (
            f"This is one run with one seed ({runs[0].config.get('seed')}). Its intervals cover the choice of held-out "
            "prompts, not the choice of the seed."
        )
    settings = set(setting_keys(runs))
    if len(settings) == len(runs):
        return (
            "Every setting was run once, with one seed. The intervals cover the choice of held-out prompts, not the "
            "choice of the seed."
        )
    return (
        f"{len(runs)} runs of {len(settings)} settings: the intervals cover the choice of held-out prompts; only the "
        "differences between runs of one setting show the effect of the seed."
    )


def _of_run(run: Run, who: str) -> Iterator[Fact]:
    gain = gain_of(run)
    if not run.finished:
        yield Fact("unfinished", f"{who}The run is not finished; it has {plural(len(run.stages), 'stage')} so far.")
    if gain is None:
        yield Fact("scope", f"{who}No rows were held out, so nothing here shows how the policy does on unseen prompts.")
    elif not gain.per_response.known:
        yield Fact(
            "scope",
            f"{who}{plural(gain.prompts, 'held-out prompt')}, and an interval needs {FEWEST}: nothing here shows "
            "whether the run helped.",
        )
    else:
        half = (gain.per_response.high - gain.per_response.low) / 2
        yield Fact(
            "smallest difference",
            f"{who}With {gain.prompts} held-out prompts, a change smaller than about {number(half * DETECTABLE)} nats "
            "a response would be missed more than one time in five.",
        )
    if gain is not None and len(run.stages) > 1 and run.config.get("gate") != "off":
        yield Fact(
            "bias",
            f"{who}{stage_title(run.result_stage).capitalize()} was chosen among {len(run.stages)} by the same "
            "held-out rows that judge it, which makes it look a little better than it is.",
        )
    if run.method == "rft" and gain is not None:
        stopped = " Held-out pairs decided when the training of the reward stopped."
        yield Fact(
            "judge",
            f"{who}Answers are scored by the reward that the policy was trained on, and a policy can learn to exploit "
            f"the errors of that reward.{'' if run.config.get('reward_kind') == 'linear' else stopped}",
        )
    if run.quarantine:
        yield Fact(
            "scope",
            f"{who}{plural(len(run.quarantine), 'row')} of the data did not enter the run; nothing here applies to "
            "rows like them.",
        )


def _of_several(runs: Sequence[Run]) -> Iterator[Fact]:
    if len({run.manifest.model for run in runs}) > 1:
        yield Fact(
            "cost",
            "The runs start from different models: the costs leave out the training of the start models, and gains "
            "since the start cannot be compared between runs.",
        )
    if len({run.manifest.rows for run in runs}) > 1:
        yield Fact("bias", "The runs used different rows; only prompts that both held out are compared.")
    costs = [run.result_cost.seconds for run in runs]
    if max(costs) > 1.5 * min(costs):
        yield Fact(
            "cost",
            f"The runs did not cost the same: the longest took {duration(max(costs))}, the shortest "
            f"{duration(min(costs))}. A baseline of equal cost could change the comparison.",
        )
    if all(run.method != "sft" for run in runs):
        yield Fact(
            "scope", "There is no run with plain SFT, so nothing here shows that more SFT would not do the same."
        )
    baseline = baseline_of(runs)
    if len(runs) > 2 and baseline is not None:
        yield Fact(
            "many tests",
            f"{plural(len(runs) - 1, 'run')} are compared with {baseline.name}; the more runs, the likelier it is that "
            "one looks better by chance. The intervals are not widened for that.",
        )


def _of_evaluation(evaluation: Evaluation) -> Iterator[Fact]:
    name = evaluation.name
    yield from (Fact("warning", f"{name}: {text}", name) for text in (*evaluation.warnings, *evaluation.leaks))
    used = {one.judge for one in evaluation.comparisons} | {one.judge for one in evaluation.measures}
    learned = tuple(sorted(judge for judge in used if judge and evaluation.judges.get(judge) == "reward"))
    if learned:
        yield Fact(
            "judge",
            f"{name}: {', '.join(learned)} learned from demonstrations; where the compared models were trained on the "
            "same ones, that judge is not independent.",
            source=name,
            judges=learned,
        )
    one = headline_comparison(evaluation)
    if one is not None and one.smallest_difference is not None:
        yield Fact(
            "smallest difference",
            f"{name}: with {one.items} items the comparison of {one.model} and {one.baseline} on {one.measure} could "
            f"detect a difference of about {number(one.smallest_difference)} or more.",
            source=name,
        )
    if len(evaluation.comparisons) > 1:
        yield Fact(
            "many tests",
            f"{name} makes {len(evaluation.comparisons)} comparisons; read the corrected p values, and the headline as "
            "one of many.",
            source=name,
        )
