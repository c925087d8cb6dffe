"""Advice on the screen: what was measured, then the recommendation."""

from rich import box
from rich.table import Table

from demotune.advice.measurements import AdviceRecord, Measurements
from demotune.common.progress import console, say


def show_advice(record: AdviceRecord) -> None:
    """A short table, then what to do, why, and the command."""
    table = Table(
        title="on held-out rows; 95% intervals over prompts",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("measured", "", "unit"):
        table.add_column(heading)
    for row in _rows(record.measurements):
        table.add_row(*row)
    console.print(table)
    advice = record.advice
    say(f"Recommendation: {advice.action}", style="bold")
    say(advice.reason)
    say(f"  {advice.command}")
    if advice.otherwise is not None:
        say("Where each answer must cost one response, train on the best of n:")
        say(f"  {advice.otherwise}")
    say(advice.basis)


def _rows(measured: Measurements) -> list[tuple[str, str, str]]:
    likelihood, reward, n = measured.likelihood, measured.reward, measured.samples_per_prompt
    rows = [
        ("samples that are the demonstration", measured.equal.text(), "share"),
        ("  on training rows", measured.equal_in_training.text(), "share"),
        ("negative log-likelihood", likelihood.heldout.text(3), "nats a token"),
        ("  less that of training rows", likelihood.gap.text(3), "nats a token"),
        ("  lowered by a short SFT", likelihood.fall.text(3), "nats a token"),
    ]
    if reward is None:
        rows.append(("reward", "none: too few prompts have a sample that differs", ""))
    else:
        headroom = reward.headroom
        rows.append(("reward: demonstration over sample", reward.accuracy.text(), "share"))
        if reward.shortcut is not None:
            rows.append((f"  best shortcut: {reward.shortcut.name}", f"{reward.shortcut.accuracy:.2f}", "share"))
            rows.append(("  the reward's lead over it", reward.shortcut.lead.text(), "share"))
        rows += [
            ("  demonstration over greedy answer", reward.greedy_accuracy.text(), "share"),
            ("above samples: demonstrations", headroom.demonstrations.text(), "nats"),
            ("  greedy answers", headroom.greedy.text(), "nats"),
            (f"  best of {n}", headroom.best.text(), "nats"),
            ("gap closed: by greedy answers", headroom.greedy_share.text(), "share"),
            (f"  by best of {n}", headroom.best_share.text(), "share"),
        ]
    if measured.prompts is not None and measured.prompts.difference is not None:
        difference = measured.prompts.difference.text()
        rows.append((f"greedy: {measured.prompts.count} further prompts less held-out", difference, "nats"))
    for what, needed in (
        ("needed for 5 points of win rate", measured.rows_for_win_rate),
        ("needed to tell accuracy from chance", measured.rows_for_accuracy),
    ):
        rows.append((what, "-" if needed is None else f"{needed:,}", "prompts"))
    return rows
