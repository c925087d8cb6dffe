"""What a report does not show, said with its own numbers."""

from collections.abc import Sequence

from demotune.common.statistics import FEWEST
from demotune.report.answer import baseline_of, headline_comparison
from demotune.report.collect import Run
from demotune.report.evaluations import Evaluation
from demotune.report.gains import gain_of
from demotune.report.wording import duration, number, plural
from demotune.runs.settings import setting_key

SEEN_FOUR_TIMES_IN_FIVE = 2.8 / 1.96
"""Half of a 95% interval times this is the difference that a two-sided test at 5% finds with 80% power."""


def limits(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[str]:
    """Sentences, the most important first."""
    found = _seeds(runs)
    found += [text for run in runs for text in _of_run(run, f"{run.name}: " if len(runs) > 1 else "")]
    if len(runs) > 1:
        found += _of_several(runs)
    found += [text for evaluation in evaluations for text in _of_evaluation(evaluation)]
    found.append(
        "Likelihood of demonstrations says how well a policy imitates what it was shown, not how useful its answers "
        "are, nor whether the demonstrations deserved imitation."
    )
    if not any(evaluation.tasks for evaluation in evaluations):
        found.append("What the training did to other abilities was not measured here: no task results were given.")
    if all(run.flops(run.result_stage) is not None for run in runs):
        found.append("Operations are worked out from token counts and the number of parameters; they are not measured.")
    return found


def _seeds(runs: Sequence[Run]) -> list[str]:
    seeds = {run.config.get("seed") for run in runs}
    if len(runs) == 1:
        return [
            f"This is one run with one seed ({next(iter(seeds))}). Its intervals cover the choice of held-out prompts, "
            "not what another seed would give."
        ]
    settings = {setting_key(run) for run in runs}
    if len(settings) == len(runs):
        return [
            "Every setting was run once, with one seed. The intervals cover the choice of held-out prompts, not what "
            "other seeds would give."
        ]
    return [
        f"{len(runs)} runs of {len(settings)} settings: the intervals cover the choice of held-out prompts, and only "
        "the scatter between runs of one setting says something about seeds."
    ]


def _of_run(run: Run, who: str) -> list[str]:
    found = []
    gain, count = gain_of(run), run.heldout_count
    if not run.finished:
        found.append(f"{who}The run is not finished; these are its first {plural(len(run.stages), 'stage')}.")
    if gain is not None and not gain.interval.known:
        found.append(
            f"{who}{plural(gain.prompts, 'held-out prompt')}, and an interval needs {FEWEST}: nothing here says "
            "whether the run helped."
        )
    elif gain is not None:
        half = (gain.high - gain.low) / 2 * SEEN_FOUR_TIMES_IN_FIVE
        found.append(
            f"{who}With {gain.prompts} held-out prompts, a change smaller than about {number(half)} nats a response "
            "would more often than one time in five have gone unseen."
        )
    elif count == 0:
        found.append(f"{who}No rows were held out, so nothing here says how the policy does on prompts it did not see.")
    elif run.start is None:
        found.append(
            f"{who}The run kept no numbers per held-out row (an older demotune made it), so its likelihoods have no "
            "intervals. Run it again to get them."
        )
    if gain is not None and len(run.stages) > 1 and run.config.get("gate") != "off":
        found.append(
            f"{who}Stage {run.result_stage} was chosen among {len(run.stages)} by the same held-out rows that judge "
            "it, which flatters it a little."
        )
    if run.method == "rft" and count:
        found.append(
            f"{who}What answers earn is told by the reward that the policy was trained on; a policy can learn what "
            "that reward likes by mistake. When to stop training the reward was decided on held-out pairs."
        )
    if run.quarantine:
        found.append(
            f"{who}{plural(len(run.quarantine), 'row')} of the data did not enter the run; nothing here speaks about "
            "rows like them."
        )
    return found


def _of_several(runs: Sequence[Run]) -> list[str]:
    found = []
    if len({run.manifest.model for run in runs}) > 1:
        found.append(
            "The runs start from different models: what the start models cost is in none of the costs, and gains since "
            "the start are not comparable between them."
        )
    if len({run.manifest.rows for run in runs}) > 1:
        found.append("The runs did not see the same rows; only prompts that both held out are compared.")
    costs = [run.seconds(run.result_stage) for run in runs]
    if max(costs) > 1.5 * min(costs):
        found.append(
            f"The runs did not cost the same: the dearest took {duration(max(costs))}, the cheapest "
            f"{duration(min(costs))}. Against a baseline of equal cost the comparison could look different."
        )
    if all(run.method != "sft" for run in runs):
        found.append("No run with plain SFT is among them, so nothing here says that more SFT would not do the same.")
    baseline = baseline_of(runs)
    if len(runs) > 2 and baseline is not None:
        found.append(
            f"{plural(len(runs) - 1, 'run')} are compared with {baseline.name}; the more runs, the likelier it is that "
            "one looks better by chance. The intervals are not widened for that."
        )
    return found


def _of_evaluation(evaluation: Evaluation) -> list[str]:
    found = [f"{evaluation.name}: {text}" for text in (*evaluation.warnings, *evaluation.leaks)]
    used = {one.judge for one in evaluation.comparisons if one.judge} | {
        m.judge for m in evaluation.measures if m.judge
    }
    learned = sorted(judge for judge in used if evaluation.judges.get(judge) == "reward")
    if learned:
        found.append(
            f"{evaluation.name}: {', '.join(learned)} learned from demonstrations; where the compared models saw the "
            "same ones, that judge is no independent witness."
        )
    one = headline_comparison(evaluation)
    if one is not None and one.smallest_difference is not None:
        found.append(
            f"{evaluation.name}: with {one.items} items the comparison of {one.model} and {one.baseline} on "
            f"{one.measure} could have seen a difference of about {number(one.smallest_difference)} or more."
        )
    if len(evaluation.comparisons) > 1:
        found.append(
            f"{evaluation.name} makes {len(evaluation.comparisons)} comparisons; read the corrected p values, and the "
            "one in the headline as one of many."
        )
    return found
