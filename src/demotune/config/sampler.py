"""What draws responses: this process, or an engine, by its addresses or started by the command."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

from demotune.common.errors import DemotuneError
from demotune.config.field import SAMPLING, field
from demotune.config.values import Config, shown

IN_PROCESS, STARTED = "in_process", "vllm"
PLACE = ("sampler", "vllm_python")
"""Fields that say where responses are drawn."""
Settings = TypeVar("Settings", bound=Config)
_ADDRESS = re.compile(r"https?://[^\s/?#@,]+(/[^\s?#,]*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SamplerFields(Config):
    """Where responses are drawn, not what: an engine draws from the same policies."""

    sampler: str = field(IN_PROCESS, SAMPLING)
    """What draws: in_process, vllm (a server that the command starts and ends), or addresses of vLLM servers,
    http://HOST:PORT, separated by commas."""
    vllm_python: str | None = field(None, SAMPLING)
    """For --sampler vllm: the Python of the environment that has vllm. Not given: this one."""

    def _check(self) -> None:
        super()._check()
        addresses_of(self.sampler)
        if self.vllm_python is not None and self.sampler != STARTED:
            raise DemotuneError(f"vllm_python is given and sampler is {self.sampler}; add --sampler {STARTED}")


def addresses_of(sampler: str) -> tuple[str, ...]:
    """The servers that `sampler` names, without a final /v1; none where it is in_process or vllm.

    Raises DemotuneError for what is neither.
    """
    if sampler in (IN_PROCESS, STARTED):
        return ()
    addresses = tuple(part.strip() for part in sampler.split(","))
    if not all(_ADDRESS.fullmatch(address) for address in addresses):
        raise DemotuneError(
            f"sampler must be {IN_PROCESS}, {STARTED}, or addresses http(s)://HOST[:PORT] without user, password or "
            f"?query, separated by commas, got {shown(re.sub('//[^/@]*@', '//...@', sampler))}; give for example "
            "http://localhost:8000, and a key in the environment variable VLLM_API_KEY"
        )
    found = tuple(address.rstrip("/").removesuffix("/v1").rstrip("/") for address in addresses)
    if len(set(found)) < len(found):
        raise DemotuneError(f"sampler names a server twice ({sampler}); name each once")
    return found


class HasSampler(Protocol):
    """Settings that name a sampler, and the number format of the weights that it draws from."""

    @property
    def sampler(self) -> str: ...
    @property
    def vllm_python(self) -> str | None: ...
    @property
    def dtype(self) -> str: ...


def engine_of(config: HasSampler) -> str | None:
    """The engine that draws; None where this process does."""
    return None if config.sampler == IN_PROCESS else config.sampler


def drawn_elsewhere(config: Settings, sampler: str | None, vllm_python: str | None) -> Settings:
    """The config with another engine where one is given. Raises DemotuneError for a method that has no sampler."""
    if sampler is None and vllm_python is None:
        return config
    if "sampler" not in {field.name for field in fields(config)}:  # type: ignore[arg-type]
        raise DemotuneError("a run of sft draws in this process; leave --sampler out")
    values: Any = {"sampler": sampler or getattr(config, "sampler", IN_PROCESS), "vllm_python": vllm_python}
    return replace(config, **values)  # type: ignore[type-var]


def without_place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, of which `sampler` says only whether an engine draws: which one is where, not what."""
    known = {name: value for name, value in settings.items() if name not in PLACE}
    return known | {"sampler": IN_PROCESS if settings.get("sampler", IN_PROCESS) == IN_PROCESS else "an engine"}
