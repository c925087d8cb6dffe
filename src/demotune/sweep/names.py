"""The name of a trial, which is also its folder's: made of what its own entry says, so that new trials rename none."""

import hashlib
import re
from collections.abc import Iterable, Mapping

from demotune.config.methods import AnyConfig

LONGEST_VALUE, LONGEST_NAME = 32, 150


def trial_name(config: AnyConfig, named: Iterable[str], start: Mapping[str, object] | None) -> str:
    """METHOD[-from-START][-FIELD=VALUE ...]-seed=N, with the fields that the trial's entry gives, in its order."""
    parts: list[str] = [config.method]
    if start is not None:
        others = (f"{name}={_text(value)}" for name, value in start.items() if name != "method")
        parts.append("-".join(["from", str(start["method"]), *others]))
    parts += [f"{name}={_text(getattr(config, name))}" for name in named if name != "seed"]
    name, seed = "-".join(parts), f"-seed={config.seed}"
    return (name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{_digest(name)}") + seed


def _text(value: object) -> str:
    """A value as part of a file's name; one that had to be changed for that gets a digest of what it was."""
    text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
    clean = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text)
    return text if clean == text and len(text) <= LONGEST_VALUE else f"{clean[-LONGEST_VALUE:]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
