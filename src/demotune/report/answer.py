"""The answer first: did it help, how sure, on how many prompts, at what cost. For the page and for the terminal."""

from collections.abc import Sequence

from demotune.common.statistics import FEWEST, TOO_FEW
from demotune.report.collect import Run
from demotune.report.evaluations import Comparison, Evaluation
from demotune.report.gains import Gain, gain_between, gain_of
from demotune.report.wording import duration, flops, interval, likelihood, number, plural, share, share_interval

NAMED_RUNS = 3
"""So many runs are named in the sentence; more stand in the table under it."""


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


def baseline_of(runs: Sequence[Run]) -> Run | None:
    """What the other runs are compared with: the only SFT run, else the first; None for a single run."""
    if len(runs) < 2:
        return None
    plain = [run for run in runs if run.method == "sft"]
    return plain[0] if len(plain) == 1 else runs[0]


def against_baseline(runs: Sequence[Run]) -> list[tuple[Run, Run, Gain]]:
    """(run, baseline, gain of the run's result over the baseline's) where both judged the same held-out rows.

    A run that starts from the baseline's model is left out: its own gain says the same.
    """
    baseline = baseline_of(runs)
    if baseline is None or baseline.result.heldout is None:
        return []
    return [
        (run, baseline, gain)
        for run in runs
        if run is not baseline
        and run.manifest.model != baseline.result.model_hash
        and run.result.heldout is not None
        and (gain := gain_between(baseline.result.heldout, run.result.heldout))
    ]


def headline_comparison(evaluation: Evaluation) -> Comparison | None:
    """A win rate by a judge that is no learned reward; else any win rate; else the first comparison with a number."""
    known = [one for one in evaluation.comparisons if one.difference is not None]
    wins = [one for one in known if one.is_win_rate]
    independent = [one for one in wins if evaluation.judges.get(one.judge or "") != "reward"]
    return next(iter(independent or wins or known), None)


def certainty(gain: Gain) -> str:
    """95% interval 1.1 to 5.3, 29 prompts; 3 prompts, fewer than the 5 that an interval needs."""
    if not gain.interval.known:
        return f"{plural(gain.prompts, 'prompt')}, fewer than the {FEWEST} that an interval needs"
    return f"95% interval {interval(gain.low, gain.high)}, {plural(gain.prompts, 'prompt')}"


def cost(run: Run) -> str:
    """Time, and operations where they were counted, up to the result."""
    operations = run.flops(run.result_stage)
    return duration(run.seconds(run.result_stage)) + (f" and {flops(operations)}" if operations else "")


def _alone(run: Run) -> str:
    gain = gain_of(run)
    if gain is None:
        return _without_rows(run)
    size = f"{number(abs(gain.per_response))} nats a response ({certainty(gain)})"
    price = f"at a cost of {cost(run)}"
    if gain.verdict == "better":
        return f"{run.name} makes held-out demonstrations likelier than its start model does, by {size}, {price}"
    if gain.verdict == "worse":
        return f"{run.name} makes held-out demonstrations less likely than its start model does, by {size}, {price}"
    unclear = "shows no clear change against its start model"
    shown = unclear if gain.interval.known else f"held out {TOO_FEW} whether it helped"
    return (
        f"{run.name} {shown}: held-out demonstrations moved by "
        f"{number(gain.per_response, signed=True)} nats a response ({certainty(gain)}), {price}"
    )


def _without_rows(run: Run) -> str:
    after = run.result.check.nll_per_token
    if after is None:
        return f"Whether {run.name} helped is not known: it held out no rows; it took {cost(run)}"
    if run.start_nll_per_token is None:
        return (
            f"How {run.name} compares with its start model is not known yet: held-out log-likelihood per token is "
            f"{likelihood(after)} after {cost(run)}"
        )
    on_rows = f" on {plural(run.heldout_count, 'row')}" if run.heldout_count else ""
    return (
        f"{run.name} moved held-out log-likelihood per token by {number(run.start_nll_per_token - after, signed=True)} "
        f"nats to {likelihood(after)}{on_rows} in {cost(run)}; how sure that is is not known, because the run kept no "
        "numbers per row"
    )


def _side_by_side(runs: Sequence[Run]) -> str:
    named = [f"{run.name} {_short(run)}" for run in runs[:NAMED_RUNS]]
    more = [f"{len(runs) - NAMED_RUNS} more below"] if len(runs) > NAMED_RUNS else []
    text = "Against their start models: " + ", ".join(named + more)
    beside = against_baseline(runs)[:NAMED_RUNS]
    if beside:
        names = [f"{run.name} {_found(gain)}" for run, _, gain in beside]
        text += f"; against {beside[0][1].name}: " + ", ".join(names)
    gains = [gain for run in runs if (gain := gain_of(run))]
    if not gains:
        return text + "; in nats; the runs kept no numbers per row, so there are no intervals"
    counts = sorted({gain.prompts for gain in gains})
    return (
        text + f"; nats a response, 95% intervals, {' to '.join(map(str, counts[:: max(1, len(counts) - 1)]))} prompts"
    )


def _short(run: Run) -> str:
    gain, took = gain_of(run), duration(run.seconds(run.result_stage))
    after = run.result.check.nll_per_token
    if gain:
        return f"{_found(gain)} in {took}"
    if after is None:
        return f"not known (no held-out rows) in {took}"
    if run.start_nll_per_token is None:
        return f"not known yet after {took}"
    return f"{number(run.start_nll_per_token - after, signed=True)} a token (how sure is not known) in {took}"


def _found(gain: Gain) -> str:
    """better (+2.40, 1.08 to 3.72)."""
    ends = f", {interval(gain.low, gain.high)}" if gain.interval.known else ""
    return f"{gain.verdict} ({number(gain.per_response, signed=True)}{ends})"


def _judged(evaluation: Evaluation) -> str | None:
    one = headline_comparison(evaluation)
    if one is None or one.difference is None:
        return None
    judge = f" by {one.judge}" if one.judge else ""
    if one.is_win_rate:
        return (
            f"judged{judge}, {one.model} wins against {one.baseline} in {share(one.difference)} of "
            f"{plural(one.items, 'prompt')} (95% interval {share_interval(one.low, one.high)})"
        )
    return (
        f"on {one.measure}{judge}, {one.model} differs from {one.baseline} by {number(one.difference, signed=True)} "
        f"({'' if one.low is None else '95% interval '}{interval(one.low, one.high)}, {plural(one.items, 'item')})"
    )
