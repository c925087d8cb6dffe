"""Who says which of two responses to a prompt is better: the numbers of a reward, a function of the user's own, or a
judge model behind a server (`judge_server`).

A judge that has nothing usable to say abstains and says why; that is no tie. Identical responses are a tie that nobody
is asked about.
"""

import importlib
import inspect
import itertools
import math
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, SupportsFloat

from demotune.common.errors import DemotuneError, shown_error
from demotune.data.raw_rows import RawRow
from demotune.data.readers.by_suffix import file_rows
from demotune.evaluation.lineage import runs_behind
from demotune.records import Message
from demotune.runs.heldout import win
from demotune.runs.run import Run

Advance = Callable[[int], object]

IDENTICAL = "identical responses"
ROWS_LOOKED_AT = 100
"""`demotune select` writes the reward into every row, so the first rows of a file show it."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Two responses to one prompt, to be judged."""

    key: str
    """Names the prompt in every file of an evaluation."""
    prompt: tuple[Message, ...]
    first: str
    second: str
    demonstration: str | None
    """What somebody wrote for this prompt, for functions that compare with it; a judge model does not get it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one contest."""

    key: str
    result: float | None
    """1.0 first is better, 0.5 tie, 0.0 second is better; None where the judge abstained."""
    reason: str
    """How the result came about, or why there is none; short enough to count by where it can be."""


class Judge(Protocol):
    """Says which of two responses is better."""

    @property
    def name(self) -> str:
        """Who judges, on the screen and in files."""

    def judge(self, contests: Sequence[Contest], advance: Advance) -> list[Verdict]:
        """One verdict for each contest, in order; `advance` is called with 1 for each that is settled.

        Raises DemotuneError where the judge abstains from every contest that it was asked about.
        """


class FunctionJudge:
    """A function of the user's own, in one of two forms that differ in the names of its parameters:

        def score(prompt, response): ...         a finite number for one response, higher is better
        def better(prompt, first, second): ...   "first", "second" or "tie"

    `prompt` is a list of messages, {"role": ..., "content": ...}, that ends with the user's turn; responses are text.
    Either form may also take `demonstration`, what somebody wrote for this prompt (text, or None where there is none),
    and may do without `prompt`. Arguments are passed by name. Equal scores are a tie.

    A function that raises, or returns anything else, abstains from that contest. Raises DemotuneError for a function
    with other parameters.
    """

    def __init__(self, function: Callable[..., object], name: str) -> None:
        self.name = name
        self._function = function
        self._takes = _parameters(function, name)
        self._pairwise = "first" in self._takes

    @staticmethod
    def load(spec: str) -> "FunctionJudge":
        """The function `MODULE:FUNCTION`. Modules in the current folder can be imported.

        Raises DemotuneError where module or function cannot be found or the module cannot be imported.
        """
        module_name, _, name = spec.partition(":")
        if not (module_name and name):
            raise DemotuneError(f"judge {spec!r} names no function; write MODULE:FUNCTION, such as my_judge:score")
        module = _imported(module_name)
        function = getattr(module, name, None)
        if not callable(function):
            known = [known for known, value in vars(module).items() if inspect.isfunction(value)]
            raise DemotuneError(
                f"{module_name} ({module.__file__}) has no function {name!r}; its functions are "
                f"{', '.join(known) or 'none'}: write the function, or name another in --judge"
            )
        return FunctionJudge(function, spec)

    def judge(self, contests: Sequence[Contest], advance: Advance) -> list[Verdict]:
        verdicts = []
        for contest in contests:
            verdicts.append(identical(contest) or self._verdict(contest))
            advance(1)
        refuse_silence(self.name, verdicts, "fix the function")
        return verdicts

    def _verdict(self, contest: Contest) -> Verdict:
        try:
            if self._pairwise:
                result = _word(self._call(contest, {"first": contest.first, "second": contest.second}))
                return Verdict(contest.key, result, "chosen by the function")
            first, second = (_number(self._call(contest, {"response": s})) for s in (contest.first, contest.second))
            return Verdict(contest.key, win(first, second), "scores compared")
        except _NoVerdictError as why:
            return Verdict(contest.key, None, str(why))

    def _call(self, contest: Contest, sides: dict[str, str]) -> object:
        known: dict[str, object] = {
            "prompt": [dict(message) for message in contest.prompt],
            "demonstration": contest.demonstration,
            **sides,
        }
        try:
            return self._function(**{name: known[name] for name in self._takes})
        except Exception as error:  # whatever the user's function raises
            raise _NoVerdictError(f"raised {shown_error(error)}") from error


def identical(contest: Contest) -> Verdict | None:
    """A tie where there is nothing to judge."""
    return Verdict(contest.key, 0.5, IDENTICAL) if contest.first == contest.second else None


def refuse_silence(name: str, verdicts: Sequence[Verdict], fix: str) -> None:
    """Raise DemotuneError where a judge was asked and abstained every time: then it is the judge that is broken."""
    asked = [verdict for verdict in verdicts if verdict.reason != IDENTICAL]
    if asked and all(verdict.result is None for verdict in asked):
        raise DemotuneError(
            f"judge {name} gave no usable answer for any of {len(asked)} prompts; the first: {asked[0].reason}; {fix}"
        )


def selecting_rewards(sources: Sequence[str]) -> dict[str, str]:
    """Content hash -> name of the rewards that `demotune select` wrote into local data, JSON Lines, gzipped or not.

    `sources` are files and folders as in a run's `data`; what is no longer there, or is no JSON Lines, is skipped.
    """
    found: dict[str, str] = {}
    for file in itertools.chain.from_iterable(map(_row_files, sources)):
        for row in itertools.islice(file_rows(file), ROWS_LOOKED_AT):
            match row:
                case RawRow(columns={"reward": {"hash": str(digest), "name": str(name)}}):
                    found[digest] = name
    return found


def conflict_note(reward: str | Path, reward_hash: str | None, models: Sequence[str | Path]) -> str | None:
    """Why a reward is no impartial judge of `models`, as far as run folders and data files show, else None.

    It is none where a run behind a model, its own or that of its start model and so on, trained on this very reward,
    or on rows that this reward selected (the paper judges so). `reward` is what was given as the reward: a run folder,
    a model folder or a hub id; `reward_hash` is the content hash of its model, None where it is not known.
    """
    notes = [
        f"this reward {deed} {model if generation == 0 else f'the run {run.folder} behind {model}'}"
        for model in models
        for generation, run in enumerate(runs_behind(Path(model)))
        for deed in _deeds(Path(reward), reward_hash, run)
    ]
    return "; ".join(notes) or None


class _NoVerdictError(Exception):
    """Why a function has no verdict on one contest."""


_WORDS = {"first": 1.0, "tie": 0.5, "second": 0.0}


def _word(answer: object) -> float:
    if not (isinstance(answer, str) and answer in _WORDS):
        raise _NoVerdictError(f"returned {reprlib.repr(answer)}, expected one of {', '.join(_WORDS)}")
    return _WORDS[answer]


def _number(answer: object) -> float:
    """A finite number of any library's type; text that looks like one is none."""
    if isinstance(answer, SupportsFloat):
        try:
            score = float(answer)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # arrays and tensors of several numbers
            score = math.nan
        if math.isfinite(score):
            return score
    raise _NoVerdictError(f"returned {reprlib.repr(answer)}, expected a finite number")


def _parameters(function: Callable[..., object], name: str) -> tuple[str, ...]:
    """Names of the arguments to pass."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:  # some functions written in C
        raise DemotuneError(f"judge {name} does not say its parameters ({error}); wrap it in a function") from error
    by_name = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
    needed = {
        parameter.name for parameter in parameters if parameter.default is parameter.empty and parameter.kind in _NAMED
    }
    for form in (("prompt", "response", "demonstration"), ("prompt", "first", "second", "demonstration")):
        if needed <= set(form) & by_name and set(form) - {"prompt", "demonstration"} <= by_name:
            return tuple(parameter for parameter in form if parameter in by_name)
    raise DemotuneError(
        f"judge {name} has the parameters ({', '.join(parameter.name for parameter in parameters)}); they must be "
        "(prompt, response) for a score of one response or (prompt, first, second) for the better of two, and either "
        "may also take demonstration"
    )


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NAMED = (*_BY_NAME, inspect.Parameter.POSITIONAL_ONLY)


def _imported(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise DemotuneError(
                f"judge module {name} needs {error.name}, which is not installed; install it"
            ) from error
        raise DemotuneError(
            f"there is no module {name} in {Path.cwd()} or among the installed packages; run the command in the folder "
            f"of {name.partition('.')[0]}.py, or correct the name in --judge"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise DemotuneError(f"judge module {name} cannot be imported: {shown_error(error)}; fix it") from error


def _row_files(source: str) -> list[Path]:
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.name.endswith((".jsonl", ".jsonl.gz")) and file.is_file()]


def _deeds(reward: Path, reward_hash: str | None, run: Run) -> Iterator[str]:
    """What a reward did in a run."""
    inside = reward.exists() and run.folder in (reward.resolve(), *reward.resolve().parents)
    if inside or (reward_hash is not None and reward_hash == _learned_reward(run)):
        yield "trained"
    if reward_hash is not None and reward_hash in selecting_rewards(run.config["data"]):
        yield "selected training data for"


def _learned_reward(run: Run) -> str | None:
    """Content hash of the reward that RFT leaves in a run folder."""
    from demotune.models.policy import content_hash  # noqa: PLC0415 (torch, which judging itself does not need)

    return content_hash(run.files.reward) if run.files.reward.is_dir() else None
