"""One table and one picture of all studies: where does a method beat the best control?

    python -m benchmarks.studies.overview [--output docs/studies]

Reads the journals of finished studies. Writes overview.md, for each study and rule the method that validation prompts
prefer, and overview.svg, the difference of every method.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.analysis import Difference, Line, Outcome, outcomes
from benchmarks.studies.frame import Row, Study, read_rows
from benchmarks.studies.page import escaped_text
from benchmarks.studies.run import STUDIES, load_study
from demotune.common.files import publish_file
from demotune.report.charts.figures import INK, MUTED, PALETTE

WIDTH, LEFT, STEP, TOP = 920, 430, 18, 40


@dataclass(frozen=True, slots=True)
class Cell:
    """A study under one rule: its methods beside the best control."""

    study: Study
    rows: Sequence[Row]
    outcome: Outcome

    @property
    def best(self) -> Line:
        """The method with the highest goal on validation prompts."""
        return max((line for line in self.outcome.lines if line.role == "method"), key=lambda line: line.validation)

    @property
    def control(self) -> Line:
        name = self.outcome.differences[0].control
        return next(line for line in self.outcome.lines if line.family == name)

    def difference(self, line: Line) -> Difference:
        """Of a method from the best control."""
        return next(each for each in self.outcome.differences if each.family == line.family)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/studies"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    found = cells()
    for name, text in (("overview.md", table(found)), ("overview.svg", picture(found))):
        with publish_file(given.output / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    print(f"{given.output}/overview.md and .svg: {len(found)} cells")


def cells() -> list[Cell]:
    """Every rule of every study whose test prompts were read."""
    found = []
    for name in STUDIES:
        study = load_study(name)
        rows = read_rows(study.journal) if study.journal.exists() else []
        found += [Cell(study, rows, outcome) for outcome in outcomes(study, rows) if outcome.differences]
    return found


def verdict(difference: Difference) -> str:
    """Does the method help, after correction?"""
    if difference.corrected_p >= 0.05:
        return "not shown"
    return "**yes**" if difference.found.difference.value > 0 else "no: worse"


def table(found: Sequence[Cell]) -> str:
    """Markdown: a row for each cell."""
    head = ["study", "chosen", "method", "goal", "best control", "goal", "less control [95%]", "p", "helps?",
            "entropy", "seconds", "seeds × prompts"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for cell in found:
        best, control = cell.best, cell.control
        difference = cell.difference(best)
        prompts = max(row.prompts for row in cell.rows if row.part == "test")
        lines.append(
            f"| [{cell.study.name}]({cell.study.name}.md) | {cell.outcome.rule.name} | {best.family} "
            f"| {best.goal.text(3)} | {control.family} | {control.goal.text(3)} "
            f"| {difference.found.difference.text(3)} | {difference.corrected_p:.2g} | {verdict(difference)} "
            f"| {_both(best, control, 'entropy')} | {best.seconds.value:.0f} / {control.seconds.value:.0f} "
            f"| {cell.outcome.seeds} × {prompts} |"
        )
    return "\n".join(lines) + "\n"


def _both(one: Line, other: Line, name: str) -> str:
    return " / ".join(f"{line.measures[name].value:.1f}" if name in line.measures else "–" for line in (one, other))


def picture(found: Sequence[Cell]) -> str:
    """SVG: each method's difference from the best control with its interval; filled where it holds after correction."""
    everything = [each for cell in found for each in cell.outcome.differences]
    ends = [end for each in everything for end in (each.found.difference.low, each.found.difference.high)]
    low, high = min([0.0, *ends]), max([0.0, *ends])

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 24)

    y, parts = TOP, [escaped_text(LEFT, 16, "goal less that of the best control", INK, "start")]
    for cell in found:
        parts.append(escaped_text(8, y, f"{cell.study.name}, {cell.outcome.rule.name}", INK, "start"))
        for each in cell.outcome.differences:
            y += STEP
            interval = each.found.difference
            colour = PALETTE[0] if each.corrected_p < 0.05 else MUTED
            parts += [
                escaped_text(LEFT - 12, y + 4, each.family, INK, "end"),
                f'<path d="M{across(interval.low):.1f} {y}H{across(interval.high):.1f}" stroke="{colour}"/>',
                f'<circle cx="{across(interval.value):.1f}" cy="{y}" r="4" fill="{colour}"/>',
            ]
        y += 2 * STEP
    zero = across(0.0)
    parts.append(f'<path d="M{zero:.1f} {TOP - 14}V{y - STEP}" stroke="{INK}" stroke-dasharray="3 3"/>')
    parts += [escaped_text(across(end), y, f"{end:+.2f}", MUTED, "middle") for end in (low, 0.0, high)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 12}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()
