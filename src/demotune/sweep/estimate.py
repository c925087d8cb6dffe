"""What a sweep will cost: the estimate of each setting, times its trials that are not finished."""

import re

from demotune.common.amounts import flops
from demotune.common.memory import GIB
from demotune.common.progress import minutes, say, show_table
from demotune.estimation.estimate import estimate_config
from demotune.sweep.trials import Plan


def show_estimate(plan: Plan, device: str | None = None) -> float:
    """A table with a line for each setting, on the screen; the seconds that all trials left would take in turn.

    By the datasheet of `device`; None: this machine is measured.
    A trial that starts from another one's result is estimated with that one's start model, which is of one shape.
    """
    rows, total = [], 0.0
    for name, trials in plan.settings.items():
        left = sum(trial.state != "finished" for trial in trials)
        found, _ = estimate_config(trials[0].at_first_model, device)
        total += left * found.seconds
        words = re.sub("-(?=[a-z])", " ", name)  # which a narrow terminal can break
        one = (minutes(found.seconds), flops(found.flops), f"{found.memory / GIB:.1f} GiB")
        rows.append((words, str(len(trials)), str(left), *one))
    headings = ("setting", "trials", "not finished", "time of one", "operations of one", "memory")
    show_table(f"estimate for {device or 'this machine'}", headings, rows)
    say(f"{minutes(total)} for the trials that are not finished, one after the other; start-up comes on top")
    return total
