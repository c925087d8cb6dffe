"""demotune: learn the reward behind demonstrations, and a better policy with it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from demotune.api import advise, best_of, compare, estimate_run, evaluate, generate, write_report
    from demotune.common.errors import DemotuneError
    from demotune.config.evaluation import EvaluationConfig
    from demotune.config.methods import IRFTConfig, RFTConfig, SFTConfig, SPINConfig
    from demotune.pipeline import resume, run
    from demotune.result import RunResult
    from demotune.rewards.implicit import ImplicitReward
    from demotune.rewards.learn import learn_reward
    from demotune.rewards.load import load_reward
    from demotune.rewards.reward import Reward
    from demotune.rewards.reward_func import as_reward_func
    from demotune.rewards.scalar import ScalarReward
    from demotune.runs.run import load_run
    from demotune.trainer import IRFTTrainer, RFTTrainer, SFTTrainer, SPINTrainer
    from demotune.training import losses

_NAMES_OF = {
    "api": ("advise", "best_of", "compare", "estimate_run", "evaluate", "generate", "write_report"),
    "common.errors": ("DemotuneError",),
    "config.evaluation": ("EvaluationConfig",),
    "config.methods": ("IRFTConfig", "RFTConfig", "SFTConfig", "SPINConfig"),
    "pipeline": ("resume", "run"),
    "result": ("RunResult",),
    "rewards.implicit": ("ImplicitReward",),
    "rewards.learn": ("learn_reward",),
    "rewards.load": ("load_reward",),
    "rewards.reward": ("Reward",),
    "rewards.reward_func": ("as_reward_func",),
    "rewards.scalar": ("ScalarReward",),
    "runs.run": ("load_run",),
    "trainer": ("IRFTTrainer", "RFTTrainer", "SFTTrainer", "SPINTrainer"),
    "training.losses": ("losses",),
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names}
__all__ = [
    "DemotuneError",
    "EvaluationConfig",
    "IRFTConfig",
    "IRFTTrainer",
    "ImplicitReward",
    "RFTConfig",
    "RFTTrainer",
    "Reward",
    "RunResult",
    "SFTConfig",
    "SFTTrainer",
    "SPINConfig",
    "SPINTrainer",
    "ScalarReward",
    "advise",
    "as_reward_func",
    "best_of",
    "compare",
    "estimate_run",
    "evaluate",
    "generate",
    "learn_reward",
    "load_reward",
    "load_run",
    "losses",
    "resume",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import demotune` and `--help` need not wait for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module demotune has no attribute {name!r}")
    home = import_module(f"demotune.{_HOME_OF[name]}")
    return home if name == "losses" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
