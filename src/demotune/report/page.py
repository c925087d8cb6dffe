"""The report page: records in, one HTML file out."""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, shipped_text
from demotune.report.answer import answer_sentence, headline, verdict
from demotune.report.charts.figures import GRID, INK, MUTED, PALETTE
from demotune.report.comparison_text import PageComparison
from demotune.report.glossary import WORDS, anchor, with_meanings
from demotune.report.limits import limits
from demotune.report.overview import cards, overview, warnings
from demotune.report.rigor.card import NOT_APPLICABLE, RigorAnswer, count_answers, count_yes
from demotune.report.samples import Browser, collect_samples
from demotune.report.sections import sections_of
from demotune.report.tables import Table, table
from demotune.report.wording import NOTHING
from demotune.runs.evaluation import Evaluation, read_evaluation
from demotune.runs.file_names import REPORT
from demotune.runs.run import Run, read_runs

SCRIPTS = ("page.js", "tables.js", "samples.js", "links.js")
"""One script on the page, in this order."""
DASH_ARRAYS = ("", "7 4", "2 3", "7 3 2 3")
"""The dashes of figures.DASHES, as SVG writes them."""


def build_report(
    runs: Sequence[Path],
    output: Path | None = None,
    *,
    evaluations: Sequence[Path] = (),
    rigor: Sequence[RigorAnswer] = (),
    comparison: PageComparison | None = None,
) -> Path:
    """Write one self-contained HTML file about `runs`, side by side, and return its path.

    `output` is report.html in the run folder unless it is given; for several runs it must be. The file needs no
    network: plotly.js is inside, which makes it about 5 MB. Raises DemotuneError for a folder that holds no run, a run
    without a finished stage, or an evaluation folder without an evaluation. Sections whose files are missing say how
    to get them.
    """
    if not runs:
        raise DemotuneError("a report needs at least one run folder, got none; name one: demotune report RUN")
    if output is None and len(runs) > 1:
        raise DemotuneError(f"a report on {len(runs)} runs has no folder to go to; name a file with --output")
    found = read_runs(list(runs))
    judged = [read_evaluation(folder) for folder in evaluations]
    target = output or runs[0] / REPORT
    with publish_file(target) as unfinished:
        unfinished.write_text(render_page(found, judged, rigor=rigor, comparison=comparison), encoding="utf-8")
    return target


def render_page(
    runs: Sequence[Run],
    evaluations: Sequence[Evaluation],
    *,
    rigor: Sequence[RigorAnswer] = (),
    comparison: PageComparison | None = None,
) -> str:
    """The page as text. User text is escaped by jinja2 or travels as JSON, which the page shows as plain text only."""
    browser, names = collect_samples(runs, evaluations), [run.name for run in runs]
    sections = sections_of(runs, evaluations, comparison)
    charts = [chart for section in sections for part in section.parts for chart in part.charts]
    data = {
        "charts": [chart.figure for chart in charts],
        "colours": _colours(),
        "samples": _browser_data(browser),
    }
    return _environment().from_string(shipped_text("demotune.report", "page.html.jinja")).render(
        title=f"Run {names[0]}" if len(runs) == 1 else f"{len(runs)} runs: {', '.join(names)}",
        methods=list(dict.fromkeys(run.method for run in runs)),
        verdict=verdict(runs),
        headline=headline(runs, evaluations),
        sentence=answer_sentence(runs, evaluations),
        warnings=warnings(runs),
        cards=cards(runs[0]) if len(runs) == 1 else (),
        overview=overview(runs) if len(runs) > 1 else None,
        several=len(runs) > 1,
        sections=sections,
        browser=browser,
        limits=limits(runs, evaluations),
        words={anchor(word): (word, meaning) for word, meaning in WORDS.items()},
        rigor=_rigor(rigor),
        colours=len(PALETTE),
        dashes=DASH_ARRAYS,
        style=Markup(shipped_text("demotune.report", "page.css")),
        script=Markup("\n".join(shipped_text("demotune.report", name) for name in SCRIPTS)),
        plotly=Markup(shipped_text("plotly", "package_data/plotly.min.js")),
        data=Markup(script_json(data)),
    )  # fmt: skip


def script_json(value: object) -> str:
    """JSON for the inside of a script element: no "<", no number that JSON does not have."""
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":")).translate(
        {ord("<"): "\\u003c", 0x2028: "\\u2028", 0x2029: "\\u2029"}
    )


def _finite(value: Any) -> Any:
    """Infinite and undefined numbers as null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rigor(answers: Sequence[RigorAnswer]) -> dict[str, Any] | None:
    if not answers:
        return None
    own = [one for one in answers if one.lacks is None and one.answer != NOT_APPLICABLE]
    apart = {what: [one for one in answers if one.lacks == what] for what in count_answers(answers).lacking}
    apart["agents or participants, of which there are none"] = [one for one in answers if one.answer == NOT_APPLICABLE]
    return {
        "sentence": count_answers(answers).sentence,
        "paper": count_yes(one.paper for one in answers),
        "own": _rigor_table(own),
        "apart": [(what, _rigor_table(lacking)) for what, lacking in apart.items() if lacking],
    }


def _rigor_table(answers: Sequence[RigorAnswer]) -> Table:
    rows = [(one.question, one.answer, one.evidence or NOTHING, one.paper) for one in answers]
    return table(["question", "here", "evidence", "the paper"], rows, texts=4)


def _browser_data(browser: Browser) -> dict[str, Any]:
    places = {name: place for place, name in enumerate(browser.names)}
    return {
        "names": browser.names,
        "metrics": [{"key": key, "label": metric.short} for key, metric in browser.metrics.items()],
        "rows": [
            {
                "key": row.key,
                "messages": row.messages,
                "demonstration": row.demonstration,
                "numbers": row.numbers,
                "answers": [
                    {"by": places[name], "text": one.text, "finished": one.finished, "numbers": one.numbers}
                    for name, one in row.answers.items()
                ],
            }
            for row in browser.rows
        ],
    }


def _colours() -> dict[str, str]:
    """Light hex -> CSS variable."""
    series = {hexes.lower(): f"--c{rank}" for rank, hexes in enumerate(PALETTE)}
    return series | {INK.lower(): "--ink", MUTED.lower(): "--muted", GRID.lower(): "--grid"}


@cache
def _environment() -> Environment:
    found = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters["words"] = with_meanings
    return found
