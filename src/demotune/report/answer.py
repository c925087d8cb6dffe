"""The answer first: did it help, how sure, on how many prompts, at what cost. For the page and for the terminal."""

from collections.abc import Sequence

from demotune.common.amounts import flops, plural
from demotune.common.statistics import FEWEST, TOO_FEW
from demotune.report.gains import Gain, against_baseline, gain_of
from demotune.report.wording import bounds, duration, number, share
from demotune.runs.evaluation import Comparison, Evaluation
from demotune.runs.run import Run

MEANINGS = {
    "better": "Imitates better than the start model",
    "worse": "Imitates worse than the start model",
    "no clear change": "No clear change in how well it imitates",
    "too few held-out rows to tell": "Too few held-out rows to tell",
    "not known": "Not known whether it helped",
    "side by side": "Side by side: how well each run imitates",
}
"""What a verdict on the likelihood of held-out demonstrations says."""
NAMED_RUNS = 3
"""So many runs are named in the sentence; the table under it has all."""


def answer_sentence(runs: Sequence[Run], evaluations: Sequence[Evaluation] = ()) -> str:
    """One sentence: did the runs help against their start models and against the baseline among them.

    Evaluations add their most trustworthy comparison. `runs` must not be empty.
    """
    parts = [_alone(runs[0])] if len(runs) == 1 else [_side_by_side(runs)]
    parts += [text for evaluation in evaluations if (text := _judged(evaluation))]
    return "; ".join(parts) + "."


def verdict(runs: Sequence[Run]) -> str:
    """The gate's words, or not known: of a single run; of several, side by side."""
    if len(runs) > 1:
        return "side by side"
    gain = gain_of(runs[0])
    return gain.verdict if gain else "not known"


def headline(runs: Sequence[Run], evaluations: Sequence[Evaluation] = ()) -> str:
    """The verdict with what it means. Only tasks, and judges that learned nothing, say whether answers are useful."""
    judged = any(one.tasks or _judged_from_outside(one) for one in evaluations)
    return MEANINGS[verdict(runs)] + ("" if judged else "; usefulness was not judged")


def headline_comparison(evaluation: Evaluation) -> Comparison | None:
    """A win rate by a judge that is no learned reward; else any win rate; else the first comparison with a number."""
    known = [one for one in evaluation.comparisons if one.difference is not None]
    wins = [one for one in known if one.is_win_rate]
    independent = [one for one in wins if evaluation.judges.get(one.judge or "") != "reward"]
    return next(iter(independent or wins or known), None)


def _alone(run: Run) -> str:
    cost = f"{duration(run.result_cost.seconds)} of wall-clock time and {flops(run.result_cost.flops)}"
    gain = gain_of(run)
    if gain is None:
        return f"Whether {run.name} helped is not known: it held out no rows; it took {cost}"
    if gain.verdict in ("better", "worse"):
        changed = "likelier" if gain.verdict == "better" else "less likely"
        return (
            f"{run.name} makes held-out demonstrations {changed} than its start model does, by "
            f"{number(abs(gain.per_response.value))} nats a response ({_certainty(gain)}), at a cost of {cost}"
        )
    unclear = "shows no clear change against its start model"
    return (
        f"{run.name} {unclear if gain.per_response.known else f'held out {TOO_FEW} whether it helped'}: held-out "
        f"demonstrations moved by {number(gain.per_response.value, signed=True)} nats a response "
        f"({_certainty(gain)}), at a cost of {cost}"
    )


def _certainty(gain: Gain) -> str:
    """95% interval 1.1 to 5.3, 29 prompts; 3 prompts, fewer than the 5 that an interval needs."""
    if not gain.per_response.known:
        return f"{plural(gain.prompts, 'prompt')}, fewer than the {FEWEST} that an interval needs"
    return f"95% interval {bounds(gain.per_response)}, {plural(gain.prompts, 'prompt')}"


def _side_by_side(runs: Sequence[Run]) -> str:
    named = [_short(run) for run in runs[:NAMED_RUNS]]
    more = [f"{len(runs) - NAMED_RUNS} more below"] if len(runs) > NAMED_RUNS else []
    text = "Against their start models: " + ", ".join(named + more)
    beside = against_baseline(runs)[:NAMED_RUNS]
    if beside:
        names = [f"{run.name} {_found(gain)}" for run, _, gain in beside]
        text += f"; against {beside[0][1].name}: " + ", ".join(names)
    counts = sorted({gain.prompts for run in runs if (gain := gain_of(run))})
    if not counts:
        return text
    prompts = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
    return f"{text}; nats a response, 95% intervals, {prompts} prompts, wall-clock times"


def _short(run: Run) -> str:
    gain = gain_of(run)
    return f"{run.name} {_found(gain) if gain else 'not known (no held-out rows)'} in " + duration(
        run.result_cost.seconds
    )


def _found(gain: Gain) -> str:
    """better (+2.40, 1.08 to 3.72)."""
    ends = f", {bounds(gain.per_response)}" if gain.per_response.known else ""
    return f"{gain.verdict} ({number(gain.per_response.value, signed=True)}{ends})"


def _judged_from_outside(evaluation: Evaluation) -> bool:
    """Whether the headline is a win rate by a judge that is no learned reward."""
    one = headline_comparison(evaluation)
    return one is not None and one.is_win_rate and evaluation.judges.get(one.judge or "") != "reward"


def _judged(evaluation: Evaluation) -> str | None:
    one = headline_comparison(evaluation)
    if one is None or one.difference is None:
        return None
    judge = f" by {one.judge}" if one.judge else ""
    if one.is_win_rate:
        return (
            f"judged{judge}, {one.model} wins against {one.baseline} in {share(one.difference)} of "
            f"{plural(one.items, 'prompt')} (95% interval {bounds(one.interval, percent=True)})"
        )
    return (
        f"on {one.measure}{judge}, {one.model} differs from {one.baseline} by {number(one.difference, signed=True)} "
        f"({'' if one.low is None else '95% interval '}{bounds(one.interval)}, {plural(one.items, 'item')})"
    )
