"""Configs as YAML files: shipped ones, loading with overrides, saving."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file
from demotune.common.suggestions import did_you_mean
from demotune.config.field import fields_of
from demotune.config.methods import CONFIGS, AnyConfig, Method, as_dict
from demotune.config.sampler import without_place
from demotune.config.values import shown
from demotune.config.yaml_fields import parse_fields, read_yaml_file


def shipped_configs() -> dict[str, str]:
    """Name -> text of the configs that come with the package."""
    folder = resources.files("demotune.config") / "shipped"
    return {f.name.removesuffix(".yaml"): f.read_text() for f in folder.iterdir() if f.name.endswith(".yaml")}


def accelerate_configs() -> list[Path]:
    """The files for `accelerate launch --config_file` that come with the package."""
    return [*(Path(__file__).parent / "shipped" / "accelerate").glob("*.yaml")]


def build_config(method: Method, file: str | None, overrides: Mapping[str, object]) -> AnyConfig:
    """The config of a run: defaults, then the YAML file (a path or a shipped name), then `overrides`.

    Raises DemotuneError for a field that the method does not have, and for a value of the wrong type.
    """
    values = _read_yaml(file) if file else {}
    wanted = values.pop("method", method)
    if wanted not in tuple(CONFIGS):
        raise DemotuneError(f"{file} is a config for {shown(wanted)}, which is no method; write method: {method}")
    if wanted != method:
        raise DemotuneError(f"{file} is a config for {wanted}, not {method}; run demotune {wanted} --config {file}")
    values |= overrides
    _refuse_unknown_fields(method, values)
    refuse_missing_fields(CONFIGS[method], values)
    return from_dict(method, values)


def refuse_missing_fields(config_class: type[Any], values: Mapping[str, object]) -> None:
    """Raise DemotuneError that names every field that a command cannot do without and that is not given."""
    missing = [name for name, field in fields_of(config_class).items() if field.required and not values.get(name)]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')} {name.upper()}" for name in missing)
        raise DemotuneError(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing; add {flags}")


def from_dict(method: Method, values: Mapping[str, object]) -> AnyConfig:
    """Plain values (as from YAML) to a checked config. Raises DemotuneError."""
    _refuse_unknown_fields(method, values)
    config_class: type[Any] = CONFIGS[method]
    return cast(AnyConfig, config_class(**values))


def _refuse_unknown_fields(method: Method, values: Mapping[str, object]) -> None:
    for name in values:
        if name not in fields_of(CONFIGS[method]):
            raise DemotuneError(unknown_field(name, method))


def load_config(file: Path) -> AnyConfig:
    """Read a run.yaml that `save_config` wrote."""
    values = _read_yaml(str(file))
    method = values.pop("method", None)
    if method not in tuple(CONFIGS):
        raise DemotuneError(
            f"{file} names no known method (found {shown(method)}); it should be one of {', '.join(CONFIGS)}"
        )
    try:
        return from_dict(method, values)
    except DemotuneError as error:
        raise DemotuneError(f"{file}: {error}") from error


def save_config(config: AnyConfig, file: Path) -> None:
    """Write the whole config, defaults filled in."""
    with publish_file(file) as unfinished:
        unfinished.write_text(yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def differing_fields(begun: AnyConfig, wanted: AnyConfig) -> list[str]:
    """Fields of a run that was begun which are not as wanted; one that is wanted as None was filled in there."""
    there = without_place(as_dict(begun))
    asked = without_place(as_dict(wanted))
    return [name for name, value in asked.items() if value is not None and there.get(name) != value]


def unknown_field(name: str, method: Method) -> str:
    """What to write instead of a field that `method` does not have."""
    owners = [other for other, config_class in CONFIGS.items() if name in fields_of(config_class)]
    near = did_you_mean(name, fields_of(CONFIGS[method]))
    if owners:
        return "; ".join(filter(None, (f"{name} is a field of {_listed(owners)}, which {method} does not use", near)))
    return f"{method} has no field {name}; {near or f'see demotune {method} --help-all'}"


def _listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _read_yaml(file: str) -> dict[str, object]:
    shipped = shipped_configs()
    if not Path(file).is_file() and file not in shipped:
        raise DemotuneError(
            f"config {file} is neither a file nor a shipped config ({', '.join(sorted(shipped))}); check the path"
        )
    return read_yaml_file(Path(file)) if Path(file).is_file() else parse_fields(shipped[file], file)
