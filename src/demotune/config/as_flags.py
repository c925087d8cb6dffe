"""Fields as the flags of a command: the words that the command line reads back to the same values."""

from collections.abc import Mapping

from demotune.config.field import fields_of


def changed_fields(config: object) -> dict[str, object]:
    """Name -> value of the fields that differ from their defaults, in the order of the flags."""
    return {
        name: value
        for name, field in fields_of(type(config)).items()
        if (value := getattr(config, name)) != field.default
    }


def as_flags(values: Mapping[str, object]) -> list[str]:
    """`--name value` for each field that is not None; a tuple repeats its flag, False is `--no-name`."""
    words: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            for one in value if isinstance(value, tuple) else (value,):
                words += [flag, str(one)]
    return words
