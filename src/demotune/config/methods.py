"""The methods' configs, by name. Fields that a method does not have do not exist for it: loading refuses them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from demotune.config.field import OPTIMISATION, field, fields_of
from demotune.config.rft import RFTConfig
from demotune.config.run import RunConfig, require
from demotune.config.shared_fields import Pairwise, Sampled

__all__ = [
    "CONFIGS", "AnyConfig", "IRFTConfig", "Method", "RFTConfig", "RunConfig", "SFTConfig",
    "SPINConfig", "as_dict",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SFTConfig(RunConfig):
    """Supervised fine-tuning: maximise the log-likelihood of the demonstrations, response tokens only."""

    method: ClassVar[Literal["sft"]] = "sft"
    learned_reward: ClassVar[Literal["none"]] = "none"

    learning_rate: float = 2e-5
    """Peak learning rate."""
    num_train_epochs: float = field(2.0, OPTIMISATION, above=0, maximum=10**6, basic=True)
    """Passes over the demonstrations. Take fewer when IRFT follows: from rows known by heart it learns little."""
    max_steps: int | None = field(None, OPTIMISATION, above=0)
    """Number of optimizer steps; overrides num_train_epochs."""
    stop_loss: float | None = field(None, OPTIMISATION, above=0, maximum=10**6)
    """With the loss nll: end the steps once a recorded training loss, nats a token, is below this."""
    loss: Literal["nll", "dft", "iw", "psft"] = field("nll", OPTIMISATION)
    """nll: -log p of each token. dft: times p, for one right answer. iw: times how much likelier the response has
    become. psft: clipped, so that the policy stays near the start model."""

    def _check(self) -> None:
        super()._check()
        require(
            self.stop_loss is None or self.loss == "nll",
            f"stop_loss is in nats a token, and loss {self.loss} is not",
            "drop --stop-loss, or take --loss nll",
        )


@dataclass(frozen=True, kw_only=True)
class SPINConfig(Sampled, Pairwise):
    """SPIN (arXiv 2401.01335): sample from the policy, then prefer demonstrations to samples. IRFT with T = 1.

    A SPIN iteration is one stage, on all data. The link is logistic, the reference is the stage's start policy.
    """

    method: ClassVar[Literal["spin"]] = "spin"

    learning_rate: float = 5e-6
    """Peak learning rate of each stage; about a quarter of the rate that SFT took."""
    stages: int = 1
    """SPIN iterations; each samples anew from the policy of the previous one."""
    slices: Literal["disjoint", "all"] = "all"
    """all: every stage uses all data. disjoint: each stage has its own part of the data."""
    # Fixed by the method: no fields, and no flags.
    link: ClassVar[Literal["logistic"]] = "logistic"  # type: ignore[misc]
    tspin_weight: ClassVar[float] = 0.0  # type: ignore[misc]
    reference: ClassVar[Literal["stage"]] = "stage"  # type: ignore[misc]
    sft_weight: ClassVar[float] = 0.0  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class IRFTConfig(Sampled, Pairwise):
    """IRFT (arXiv 2405.17888, Algorithm 2): T stages, each samples from its start policy and takes K steps."""

    method: ClassVar[Literal["irft"]] = "irft"

    learning_rate: float = 5e-6
    """Peak learning rate of each stage; about a quarter of the rate that SFT took."""


Method = Literal["sft", "spin", "irft", "rft"]
AnyConfig = SFTConfig | SPINConfig | IRFTConfig | RFTConfig
CONFIGS: dict[Method, type[AnyConfig]] = {"sft": SFTConfig, "spin": SPINConfig, "irft": IRFTConfig, "rft": RFTConfig}


def as_dict(config: AnyConfig) -> dict[str, object]:
    """The config as plain values, `method` first: what run.yaml holds and what the config hash is taken of."""
    values = {name: getattr(config, name) for name in fields_of(type(config))}
    return {"method": config.method} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
