"""check.json: what a stage measured on held-out rows."""

from dataclasses import dataclass

from demotune.runs.gate import Gate
from demotune.runs.heldout import PairCheck, PolicyCheck, RewardCheck


@dataclass(frozen=True, slots=True)
class StageCheck:
    """All None without held-out rows; only what was measured is in the file."""

    nll_per_token: float | None = None
    """Of held-out demonstrations under the policy after the stage, nats."""
    reward: PairCheck | RewardCheck | None = None
    """What the stage's reward prefers: RFT's model, or the implicit reward since the stage's reference (SPIN, IRFT)."""
    reward_since_start: RewardCheck | None = None
    """The implicit reward since the start model, from the second stage on."""
    policy: PolicyCheck | None = None
    """RFT: what answers earn before and after the policy steps."""
    gate: Gate | None = None

    @property
    def whole_reward(self) -> PairCheck | RewardCheck | None:
        """What the run has learned up to here: the reward since the start model where there is one."""
        return self.reward_since_start or self.reward
