"""Print the gold study's tables as Markdown: python benchmarks/gold/table.py [ROWS]."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from study import RESULTS, SETTINGS

from demotune.common.files import read_rows

CONTROL = "sft-more"
NAMES = {"sft": "SFT", "sft-more": "more SFT", "spin": "SPIN", "rft": "RFT", "rft-prompts": "RFT, more prompts"} | {
    f"irft-{link}": f"IRFT {link}" for link in ("logistic", "linear", "nce")
}


def main() -> None:
    rows = read_rows(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "gold.jsonl")
    final = [row for row in rows if row["part"] == "test"]
    measured = {(row["noise"], row["amount"]) for row in final}
    conditions = [each for each in itertools.product(("clean", "noisy"), ("few", "many")) if each in measured]
    corrected = _corrected_p(final, conditions)
    for noise, amount in conditions:
        here = [row for row in final if (row["noise"], row["amount"]) == (noise, amount)]
        print(f"\n**{noise} demonstrations, {amount}**\n")
        print(
            "| method | gold reward [95%] | exact | less more SFT [95%] | p (Holm) | NLL of good | KL | AUC | seconds |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for method in NAMES:
            mine = _by_seed(here, method)
            if not mine:
                continue
            difference = "" if method in (CONTROL, "sft") else interval(_differences(here, method))
            p = corrected.get((noise, amount, method))
            cells = (
                NAMES[method],
                interval([row["gold"] for row in mine]),
                f"{_mean(mine, 'exact'):.2f}",
                difference,
                "" if p is None else f"{p:.3f}",
                f"{_mean(mine, 'nll_good'):.3f}",
                f"{_mean(mine, 'kl_origin'):.2f}" if mine[0]["kl_origin"] is not None else "",
                f"{_mean(mine, 'reward_auc'):.2f}" if "reward_auc" in mine[0] else "",
                f"{_mean(mine, 'seconds'):.0f}",
            )
            print("| " + " | ".join(cells) + " |")
    print("\nChosen settings, by gold reward on validation prompts (and by held-out likelihood where that differs):\n")
    print("| method | " + " | ".join(f"{noise}, {amount}" for noise, amount in conditions) + " |")
    print("|---|" + "---|" * len(conditions))
    tuning = [row for row in rows if row["part"] == "validation" and row["setting"] is not None]
    for method in SETTINGS:
        cells = [
            _chosen([r for r in tuning if (r["noise"], r["amount"], r["method"]) == (*c, method)]) for c in conditions
        ]
        print(f"| {NAMES[method]} | " + " | ".join(cells) + " |")


def interval(values: Sequence[float]) -> str:
    """Mean and 95% t interval over seeds."""
    mean, error = float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else float("nan")
    half = error * float(stats.t.ppf(0.975, max(len(values) - 1, 1)))
    return f"{mean:+.3f} ± {half:.3f}" if mean < 0 else f"{mean:.3f} ± {half:.3f}"


def _corrected_p(rows: Sequence[dict[str, Any]], conditions: Sequence[tuple[str, str]]) -> dict[tuple[str, ...], float]:
    """Paired t-tests of the gold reward against more SFT over the same seeds; Holm's correction over the study."""
    found: dict[tuple[str, ...], float] = {}
    for noise, amount in conditions:
        here = [row for row in rows if (row["noise"], row["amount"]) == (noise, amount)]
        for method in SETTINGS:
            differences = _differences(here, method)
            if method != CONTROL and len(differences) > 1 and np.std(differences) > 0:
                found[noise, amount, method] = float(stats.ttest_1samp(differences, 0).pvalue)
    ordered = sorted(found, key=found.__getitem__)
    worst = 0.0
    for rank, key in enumerate(ordered):
        worst = max(worst, min(found[key] * (len(ordered) - rank), 1.0))
        found[key] = worst
    return found


def _differences(rows: Sequence[dict[str, Any]], method: str) -> list[float]:
    """Gold reward less that of the control with the same demonstrations, seed by seed."""
    control = {row["seed"]: row["gold"] for row in _by_seed(rows, CONTROL)}
    return [row["gold"] - control[row["seed"]] for row in _by_seed(rows, method) if row["seed"] in control]


def _by_seed(rows: Sequence[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    return sorted((row for row in rows if row["method"] == method), key=lambda row: row["seed"])


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _chosen(rows: Sequence[dict[str, Any]]) -> str:
    by_gold, by_nll = max(rows, key=lambda row: row["gold"]), min(rows, key=lambda row: row["heldout_nll"])
    text = _setting(by_gold)
    return text if by_gold["setting"] == by_nll["setting"] else f"{text} (likelihood: {_setting(by_nll)})"


def _setting(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{short} {value:g}" for short, value in ((s, row.get(n)) for s, n in _SHORT.items()) if value is not None
    )


_SHORT = {"lr": "learning_rate", "T": "stages", "β": "beta"}

if __name__ == "__main__":
    main()
