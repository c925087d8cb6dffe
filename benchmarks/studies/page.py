"""Tables and pictures of studies from their journals.

    python -m benchmarks.studies.page [STUDY ...] [--output docs/studies]

For each study with test rows STUDY.md (tables), STUDY.json (the same numbers), and STUDY.svg: quality against
entropy and against the likelihood of fresh demonstrations, for every setting tried, on validation prompts.
"""

import argparse
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies.analysis import Line, Outcome, Point, outcomes, points
from benchmarks.studies.frame import Row, Study, read_rows
from benchmarks.studies.run import STUDIES, load_study
from demotune.common.files import publish_file
from demotune.common.json_records import as_json
from demotune.report.charts.figures import INK, MUTED, PALETTE

WIDTH, HEIGHT, MARGIN = 460, 340, 56


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="default: all with a journal")
    parser.add_argument("--output", type=Path, default=Path("docs/studies"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.studies or STUDIES:
        study = load_study(name)
        if study.journal.exists():
            write_page(study, read_rows(study.journal), given.output)


def write_page(study: Study, rows: Sequence[Row], folder: Path) -> None:
    found, tried = outcomes(study, rows), points(study, rows)
    record = {
        "study": study.name,
        "rows": len(rows),
        "settings": len(tried),
        "outcomes": [_record(each) for each in found],
    }
    texts = {
        "md": markdown(study, found, rows, len(tried)),
        "json": json.dumps(record, indent=1) + "\n",
        "svg": picture(study, tried),
    }
    for suffix, text in texts.items():
        with publish_file(folder / f"{study.name}.{suffix}") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    print(f"{folder / study.name}.md, .json, .svg: {len(rows)} rows, {len(tried)} settings")


def _record(outcome: Outcome) -> dict[str, object]:
    return {
        "rule": outcome.rule.name,
        "goal": outcome.rule.goal,
        "seeds": outcome.seeds,
        "left_out": list(outcome.left_out),
        "lines": [as_json(line) for line in outcome.lines],
        "differences": [as_json(each) for each in outcome.differences],
    }


def markdown(study: Study, found: Sequence[Outcome], rows: Sequence[Row], tried: int) -> str:
    """The study's text, then a table for each rule."""
    seeds = len({row.seed for row in rows})
    tests = [row for row in rows if row.part == "test"]
    prompts = max((row.prompts for row in tests), default=0)
    comparisons = sum(len(each.differences) for each in found)
    head = [
        f"# {study.text.strip()}",
        "",
        f"Tried: {tried} settings, each with up to {seeds} seeds. Test: {prompts} prompts, "
        f"up to {max((row.samples for row in tests), default=0)} answers each. Means over seeds; intervals are 95%.",
        f"*less best control*: paired by seed; p after Holm over {comparisons} comparisons.",
        "*seconds*: processor time. *nll*: nats per token of fresh demonstrations. *entropy*: nats per response.",
        "",
        f"![{study.quality} against entropy and likelihood]({study.name}.svg)",
    ]
    return "\n".join([*head, *(text for outcome in found for text in _table(study, outcome))]) + "\n"


def _table(study: Study, outcome: Outcome) -> list[str]:
    rule = outcome.rule
    names = [name for name in (*study.shown, "entropy", "nll") if name != rule.goal]
    columns = ["family", rule.goal, "less best control", *names, "seconds", "answers", "settings chosen"]
    lines = ["", f"## {rule.name}: {rule.text}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    differences = {each.family: each for each in outcome.differences}
    for line in outcome.lines:
        less = ""
        if line.family in differences:
            each = differences[line.family]
            less = f"{each.found.difference.text(3)}, p = {each.corrected_p:.2g}"
        cells = [
            f"{line.family} ({line.role})",
            line.goal.text(3),
            less,
            *(_number(line, name) for name in names),
            line.seconds.text(1),
            f"{line.answers:g}",
            "; ".join(_setting(each) for each in line.settings),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if outcome.differences:
        lines += ["", f"Best control on validation prompts: {outcome.differences[0].control}."]
    if outcome.left_out:
        lines += ["", f"No setting allowed, or not measured: {', '.join(outcome.left_out)}."]
    return lines


def _number(line: Line, name: str) -> str:
    return line.measures[name].text(3) if name in line.measures else "–"


def _setting(text: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(text).items())


def picture(study: Study, tried: Sequence[Point]) -> str:
    """Two scatter plots side by side and a legend, as SVG."""
    families = list(dict.fromkeys(point.family for point in tried))
    bottom = HEIGHT + 18 * math.ceil(len(families) / 3) + 12
    body = [
        _scatter(study, [(one, one.entropy) for one in tried], families, 0, "entropy, nats per response"),
        _scatter(
            study, [(one, one.nll) for one in tried], families, WIDTH, "NLL of fresh demonstrations, nats per token"
        ),
    ]
    for number, family in enumerate(families):
        x, y = MARGIN + number % 3 * (2 * WIDTH - MARGIN) / 3, HEIGHT + 18 * (number // 3) + 12
        body.append(_mark(x, y - 4, number) + escaped_text(x + 10, y, family, INK, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {bottom}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def _scatter(
    study: Study, tried: Sequence[tuple[Point, float | None]], families: Sequence[str], left: int, label: str
) -> str:
    known = [(one, x) for one, x in tried if x is not None]
    if not known:
        return ""
    x_low, x_high = _range([x for _, x in known])
    y_low, y_high = _range([one.quality for one, _ in known])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - MARGIN - 16)
        return left + MARGIN + across, HEIGHT - MARGIN - (y - y_low) / (y_high - y_low) * (HEIGHT - MARGIN - 16)

    corner, end, top = place(x_low, y_low), place(x_high, y_low), place(x_low, y_high)
    parts = [
        f'<path d="M{top[0]:.1f} {top[1]:.1f}L{corner[0]:.1f} {corner[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" fill="none" '
        f'stroke="{MUTED}"/>',
        escaped_text((corner[0] + end[0]) / 2, HEIGHT - 20, label, INK, "middle"),
        escaped_text(corner[0], 12, study.quality, INK, "middle"),
    ]
    for share in (0.0, 0.5, 1.0):
        x, y = x_low + share * (x_high - x_low), y_low + share * (y_high - y_low)
        parts.append(escaped_text(place(x, y_low)[0], corner[1] + 16, f"{x:.3g}", MUTED, "middle"))
        parts.append(escaped_text(corner[0] - 6, place(x_low, y)[1] + 4, f"{y:.2f}", MUTED, "end"))
    parts += [
        _mark(*place(x, one.quality), families.index(one.family), f"{one.family}: {_setting(one.setting)}")
        for one, x in known
    ]
    return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little wider than the values."""
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _mark(x: float, y: float, number: int, title: str = "") -> str:
    """Families beyond the colours get rings."""
    colour = PALETTE[number % len(PALETTE)]
    fill = colour if number < len(PALETTE) else "none"
    name = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{fill}" stroke="{colour}" fill-opacity="0.7">{name}</circle>'


def escaped_text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    """An SVG text with `text` escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{html.escape(text)}</text>'


if __name__ == "__main__":
    main()
