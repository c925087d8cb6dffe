"""An evaluation whose answers people compare, and a rater at its page."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

from demotune.common.files import write_json, write_rows
from demotune.config.interactive import AnnotateConfig
from demotune.evaluation.annotation.annotate import annotate
from demotune.evaluation.annotation.items import contest_of
from demotune.runs.evaluation import read_evaluation

MODEL, BASELINE = "irft", "sft"


def write_contest(folder: Path, *, rows: int = 4, identical: tuple[int, ...] = (), text: str = "") -> Path:
    """An evaluation of two models with a function as judge; `text` stands before each text of it."""
    comparison = {
        "measure": "win rate", "kind": "win rate", "judge": "j:better", "model": MODEL, "baseline": BASELINE,
        "difference": 0.6, "low": 0.5, "high": 0.7, "p": 0.04, "effect_size": 0.2, "smallest_difference": 0.2,
        "items": rows, "test": "sign test", "p_corrected": 0.04,
    }  # fmt: skip
    write_json(
        folder / "evaluation.json",
        {
            "data": {"kind": "demonstrations", "rows": rows},
            "models": [
                {"name": name, "folder": name, "hash": name, "role": role}
                for name, role in ((MODEL, "model"), (BASELINE, "baseline"))
            ],
            "judges": [{"name": "j:better", "kind": "function", "hash": None, "note": None, "abstained": {}}],
            "measures": [],
            "comparisons": [comparison],
            "leaks": [],
            "warnings": [],
        },
    )
    write_rows(folder / "rows.jsonl.gz", [row_of(row, text, row in identical) for row in range(rows)])
    return folder


def row_of(row: int, text: str, identical: bool) -> dict[str, Any]:
    """A row of which the model's answer is `good N` and the baseline's `bad N`, or both are `same N`."""
    answers = {MODEL: f"{text}good {row}", BASELINE: f"{text}bad {row}"}
    if identical:
        answers = dict.fromkeys(answers, f"same {row}")
    number = {"demo_logp": -5.0, "demo_tokens": 4, "sample_logp": -3.0, "sample_tokens": 5, "finished": True}
    return {
        "key": f"key{row}", "source": f"test.jsonl:{row + 1}", "prompt": f"system: s\n\nuser: {row}",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"{text}question {row}"}],
        "demonstration": "d", "rewards": {}, "verdicts": {"j:better": {f"{MODEL} over {BASELINE}": 1}},
        "models": {name: {**number, "sample": answer, "rewards": {}} for name, answer in answers.items()},
    }  # fmt: skip


class Rater:
    """Asks and votes as the page does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def state(self) -> Any:
        with urllib.request.urlopen(f"{self.url}state", timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: object, **headers: str) -> int:
        given = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), given)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)

    def vote(self, item: int, choice: str | None) -> int:
        return self.post("vote", {"item": item, "choice": choice})

    def prefer(self, item: int, answer: str) -> int:
        """Vote for the side that holds an answer which begins so."""
        (side,) = (n for n, text in enumerate(self.state()["items"][item]["answers"]) if text.startswith(answer))
        return self.vote(item, ("left", "right")[side])


@contextmanager
def rating(folder: Path, rater: str = "anna", *, finish: bool = True, **fields: Any) -> Iterator[Rater]:
    """A rater at the page of `demotune annotate`, which ends with the block; with `finish` the block's end ends it."""
    urls: Queue[str | BaseException] = Queue()

    def serve() -> None:
        try:
            annotate(AnnotateConfig(evaluation=folder, rater=rater, **fields), ready=urls.put)
        except BaseException as error:
            urls.put(error)

    thread = threading.Thread(target=serve)
    thread.start()
    url = urls.get(timeout=60)
    if isinstance(url, BaseException):
        raise url
    person = Rater(url)
    try:
        yield person
    finally:
        if finish:
            person.post("finish", {})
        thread.join(timeout=60)
        assert not thread.is_alive()


def items_of(folder: Path) -> Any:
    return contest_of(read_evaluation(folder))
