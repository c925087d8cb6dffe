"""`--profile`: where a run's time went, and which share of the machine's ceiling each kind of work reached."""

from collections import defaultdict
from typing import get_args

from demotune.common.profiling import Kind, Profile
from demotune.common.progress import minutes, say, show_table
from demotune.estimation.forecast import Estimate, States, finished


def show_profile(profile: Profile, estimate: Estimate, states: States, *, whole_run: bool) -> None:
    """Kinds of work by their seconds, with the share of the ceiling that they reached.

    A resumed run (`whole_run` False) counted tokens that were not profiled, so it has no shares of the ceiling.
    """
    shares = shares_of_ceiling(profile, estimate, states) if whole_run else {}
    reached = {str(kind): f"{share:.0%}" for kind, share in shares.items()}
    seconds: dict[str, float] = {kind: profile.seconds[kind] for kind in get_args(Kind) if kind in profile.seconds}
    seconds |= {"other": profile.total - sum(seconds.values()), "in all": profile.total}
    rows = [
        (name, minutes(took), f"{took / profile.total:.0%}", reached.get(name, "")) for name, took in seconds.items()
    ]
    show_table("where the time went", ("", "time", "share of time", "share of ceiling"), rows)
    machine = estimate.machine
    say(
        f"ceilings measured on the spot: {machine.products / 1e9:,.0f} GFLOP/s of {machine.precision} matrix products; "
        f"of the optimizer {machine.bandwidth / 1e9:,.0f} GB/s of memory"
        if whole_run
        else "of what was done since the run was resumed; so without shares of the ceiling"
    )


def shares_of_ceiling(profile: Profile, estimate: Estimate, states: States) -> dict[Kind, float]:
    """Operations per second as a share of the machine's; of the optimizer, bytes per second likewise.

    Operations are the estimate's, in proportion to the tokens that the run counted.
    """
    costs, machine = estimate.costs, estimate.machine
    done: defaultdict[Kind, float] = defaultdict(float)
    for work, record in finished(estimate, states):
        for kind, flops in costs.flops(work.as_counted(record["forward_tokens"], record["trained_tokens"])).items():
            done[kind] += flops / machine.products
        if work.training is not None:
            done["optimizer"] += record["steps"] * costs.update_bytes / machine.bandwidth
    return {kind: least / profile.seconds[kind] for kind, least in done.items() if profile.seconds.get(kind)}
