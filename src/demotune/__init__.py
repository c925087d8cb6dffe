"""demotune: learn the reward behind demonstrations, and a better policy with it."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "DemotuneError",
    "IRFTConfig",
    "ImplicitReward",
    "RFTConfig",
    "RunResult",
    "SFTConfig",
    "SPINConfig",
    "ScalarReward",
    "load_reward",
    "resume",
    "run",
]

if TYPE_CHECKING:
    from demotune.common.errors import DemotuneError
    from demotune.config.methods import IRFTConfig, RFTConfig, SFTConfig, SPINConfig
    from demotune.pipeline import resume, run
    from demotune.result import RunResult
    from demotune.rewards.implicit import ImplicitReward
    from demotune.rewards.load import load_reward
    from demotune.rewards.scalar import ScalarReward

_HOMES = {
    "DemotuneError": "common.errors",
    "IRFTConfig": "config.methods",
    "RFTConfig": "config.methods",
    "SFTConfig": "config.methods",
    "SPINConfig": "config.methods",
    "ImplicitReward": "rewards.implicit",
    "RunResult": "result",
    "ScalarReward": "rewards.scalar",
    "load_reward": "rewards.load",
    "resume": "pipeline",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `demotune --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module demotune has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"demotune.{_HOMES[name]}"), name)
