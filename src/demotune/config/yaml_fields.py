"""Fields (name: value) from a YAML file that anybody may have written: bounded, and without what no config needs."""

from pathlib import Path

import yaml

from demotune.common.errors import DemotuneError

MOST_BYTES = 2**20
MOST_LEVELS = 8
MOST_DIGITS = 30
"""Of a number: Python cannot even show one of thousands."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KEPT = {"null", "bool", "int", "float"}
"""Kinds of YAML that become values of Python; all else, dates for instance, stays the text that it is."""


def read_yaml_file(file: Path) -> dict[str, object]:
    """The fields in a file. Raises DemotuneError where it is no UTF-8, no YAML, or holds anything but plain fields."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise DemotuneError(f"config {file} cannot be read ({error.strerror}); check its permissions") from error
    if len(content) > MOST_BYTES:
        raise DemotuneError(f"config {file} has more than 1 MiB; name data files, not their content")
    try:
        return parse_fields(content.decode("utf-8-sig"), str(file))
    except UnicodeDecodeError as error:
        raise DemotuneError(f"config {file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def parse_fields(text: str, name: str) -> dict[str, object]:
    """The fields in a text; `name` is that of its file, for messages."""
    try:
        _refuse_needless(text, name)
        node = yaml.compose(text, Loader=_Loader)
        value = None if node is None else _plain(node, name)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise DemotuneError(f"{name} is not valid YAML: {problem}; correct it") from error
    if not isinstance(value, dict):
        raise DemotuneError(f"{name} must hold fields (name: value), found {type(value).__name__}; write them so")
    return value


def _refuse_needless(text: str, name: str) -> None:
    """Anchors (a few lines of which can stand for billions of values), tags, and deep nesting; nothing is built."""
    levels = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = getattr(event.start_mark, "line", 0) + 1
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor:
            raise DemotuneError(f"{name} line {line} has an anchor (& or *); write the value out")
        if tag:
            raise DemotuneError(f"{name} line {line} has the tag {tag!r}; write the plain value")
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > MOST_LEVELS:
            raise DemotuneError(f"{name} line {line} is nested more than {MOST_LEVELS} levels deep; fields are flat")


def _plain(node: yaml.Node, name: str) -> object:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, name) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, name)
    return _scalar(node, name)


def _mapping(node: yaml.MappingNode, name: str) -> dict[str, object]:
    found: dict[str, object] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise DemotuneError(f"{name} line {line}: the name of a field is no text; write name: value")
        if key.value in found:
            raise DemotuneError(
                f"{name} gives {key.value!r} twice, in lines {lines[key.value]} and {line}; keep the one that you mean"
            )
        found[key.value], lines[key.value] = _plain(value, name), line
    return found


def _scalar(node: yaml.Node, name: str) -> object:
    kind = node.tag.rpartition(":")[2]
    if kind not in _KEPT:
        return node.value
    if kind in {"int", "float"} and len(node.value) > MOST_DIGITS:
        raise DemotuneError(
            f"{name} line {node.start_mark.line + 1} has a number of {len(node.value)} digits; write a smaller one"
        )
    try:
        value: object = getattr(yaml.constructor.SafeConstructor(), f"construct_yaml_{kind}")(node)
    except ValueError:  # 0x_ and the like, which only look like numbers
        return node.value
    return value
