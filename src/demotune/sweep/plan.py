"""From a sweep file to its plan: every trial is checked, named and linked to the trial that it starts from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.config.commands import CompareConfig
from demotune.config.config_files import from_dict, unknown_field
from demotune.config.field import fields_of
from demotune.config.methods import CONFIGS, AnyConfig, Method, as_dict
from demotune.config.values import checked, shown
from demotune.runs.file_names import TRIALS
from demotune.sweep.entries import Entry, SweepFile, read_sweep_file
from demotune.sweep.names import trial_name
from demotune.sweep.trials import Plan, Trial

COMPARED = ("data", "columns", "max_length", "max_rows", "batch_size", "bf16")
"""What the section `compare` may give: fields of `demotune compare`."""


@dataclass
class Problems:
    """What is wrong, collected, so that one error names all of it."""

    file: Path
    found: dict[str, None] = field(default_factory=dict)
    """In order; one that many trials of a grid share stands once."""

    def add(self, place: str, problem: object) -> None:
        self.found[f"{place}: {problem}"] = None

    def refuse(self) -> None:
        if len(self.found) == 1:
            raise DemotuneError(f"{self.file}: {next(iter(self.found))}")
        if self.found:
            lines = "\n  ".join(self.found)
            raise DemotuneError(f"{self.file} has {len(self.found)} problems; correct them:\n  {lines}")


@dataclass(frozen=True)
class Draft:
    """A checked trial whose start is not looked up yet."""

    name: str
    place: str
    config: AnyConfig
    start: Mapping[str, Any] | None
    """Values of the fields of the trial that it starts from, `method` and `seed` among them."""


def read_plan(file: Path, folder: Path) -> Plan:
    """The plan of a sweep whose results go into `folder`.

    Raises DemotuneError that lists everything that is wrong with the file, and for trials whose folder holds another
    run. Whether models and data are there is not looked at.
    """
    content, problems = read_sweep_file(file), Problems(file)
    _check_common(content, problems)
    drafts = [draft for entry in content.entries if (draft := _draft(entry, content.common, folder, problems))]
    problems.refuse()
    _refuse_same(drafts, problems)
    starts = {draft.name: _find_start(draft, drafts, problems) for draft in drafts if draft.start is not None}
    problems.refuse()
    trials = tuple(sorted((_trial(draft, starts, file) for draft in drafts), key=lambda trial: trial.depth))
    plan = Plan(file, folder, trials, _comparison(content.compare, folder, file))
    _refuse_changed(plan)
    return plan


def _check_common(content: SweepFile, problems: Problems) -> None:
    methods = list(dict.fromkeys(method for entry in content.entries if (method := entry.fields.get("method"))))
    known = [method for method in methods if method in CONFIGS]
    for name in content.common:
        if name == "output":
            problems.add("common", "the sweep names the folders of its trials; leave output out")
        elif known and not any(name in fields_of(CONFIGS[method]) for method in known):
            problems.add("common", unknown_field(name, known[0]))


def _draft(entry: Entry, common: Mapping[str, Any], folder: Path, problems: Problems) -> Draft | None:
    """The trial of an entry, with the common fields that its method has; None where something is wrong with it."""
    own = {name: value for name, value in entry.fields.items() if name not in ("method", "start")}
    method = entry.fields.get("method")
    if method not in tuple(CONFIGS):
        problems.add(entry.place, f"method must be one of {', '.join(CONFIGS)}, got {shown(method)}; give one")
        return None
    shared = {name: value for name, value in common.items() if name in fields_of(CONFIGS[method]) and name != "output"}
    unknown = [name for name in own if name not in fields_of(CONFIGS[method]) or name == "output"]
    for name in unknown:
        why = "the sweep names the folders of its trials; leave output out"
        problems.add(entry.place, why if name == "output" else unknown_field(name, method))
    values = shared | {name: value for name, value in own.items() if name not in unknown}
    try:
        config = from_dict(method, values | {"output": str(folder)})
        start = _wanted_start(entry, config)
    except DemotuneError as error:
        problems.add(entry.place, error)
        return None
    for name in ("data",) if start is not None else ("model", "data"):
        if not getattr(config, name):
            problems.add(entry.place, f"{name} is missing; give it in common")
    name = trial_name(config, own, _given_start(entry))
    return Draft(name, entry.place, replace(config, output=str(folder / TRIALS / name)), start)


def _given_start(entry: Entry) -> dict[str, Any] | None:
    """The key `start`: fields of another trial; a text is its method."""
    start = entry.fields.get("start")
    return {"method": start} if isinstance(start, str) else start


def _wanted_start(entry: Entry, config: AnyConfig) -> dict[str, Any] | None:
    """Values of the trial from which this one starts: those given, and the same seed. Raises DemotuneError."""
    start = _given_start(entry)
    if start is None:
        return None
    if not isinstance(start, dict) or start.get("method") not in tuple(CONFIGS):
        raise DemotuneError(
            f"start must name a method or fields with a method, got {shown(entry.fields['start'])}; write start: sft"
        )
    if "model" in entry.fields:
        raise DemotuneError("model and start are both given; leave one out")
    method: Method = start["method"]
    fields = fields_of(CONFIGS[method])
    for name in start:
        if name != "method" and name not in fields:
            raise DemotuneError(f"start: {unknown_field(name, method)}")
    return {"seed": config.seed} | {
        name: value if name == "method" else checked(fields[name], value) for name, value in start.items()
    }


def _refuse_same(drafts: Iterable[Draft], problems: Problems) -> None:
    """Two entries that give one trial, under one name or two."""
    seen: dict[str, Draft] = {}
    for draft in drafts:
        values = str([*as_dict(replace(draft.config, output="-")).items(), draft.start])
        for key in (draft.name, values):
            if (other := seen.setdefault(key, draft)) is not draft:
                places = draft.place if draft.place == other.place else f"{other.place} and {draft.place}"
                names = draft.name if draft.name == other.name else f"{other.name}, {draft.name}"
                problems.add(places, f"one trial is given twice ({names}); leave one out")
                break


def _find_start(draft: Draft, drafts: Iterable[Draft], problems: Problems) -> Draft | None:
    fits = [
        other
        for other in drafts
        if other is not draft
        and all(getattr(other.config, name, None) == value for name, value in (draft.start or {}).items())
    ]
    if len(fits) == 1:
        return fits[0]
    wanted = ", ".join(f"{name} {value}" for name, value in (draft.start or {}).items())
    if not fits:
        problems.add(draft.place, f"{draft.name} starts from a trial with {wanted}, and there is none; add it")
    else:
        names = ", ".join(other.name for other in fits[:4])
        problems.add(draft.place, f"{draft.name} may start from {len(fits)} trials ({names}); name a field in start")
    return None


def _trial(draft: Draft, starts: Mapping[str, Draft | None], file: Path, above: tuple[str, ...] = ()) -> Trial:
    start = starts.get(draft.name)
    if start is None:
        return Trial(draft.name, draft.config, None)
    if start.name in above:
        raise DemotuneError(f"{file}: {draft.name} and {start.name} start from each other; name another start")
    first = _trial(start, starts, file, (*above, draft.name))
    return Trial(draft.name, replace(draft.config, model=first.config.output), first)


def _comparison(given: Mapping[str, Any], folder: Path, file: Path) -> CompareConfig:
    """Raises DemotuneError for what is no field of a comparison, or not a value of one."""
    for name in given:
        if name not in COMPARED:
            raise DemotuneError(f"{file}: compare has no field {name}; it has {', '.join(COMPARED)}")
    try:
        return CompareConfig(runs=(), output=folder, **given)
    except DemotuneError as error:
        raise DemotuneError(f"{file}: compare: {error}") from error


def _refuse_changed(plan: Plan) -> None:
    for trial in plan.trials:
        if changed := trial.changed:
            raise DemotuneError(
                f"{trial.folder} holds another run than {plan.file} asks for now ({', '.join(changed)} differ); undo "
                "the change, move that folder away, or give another --output"
            )
