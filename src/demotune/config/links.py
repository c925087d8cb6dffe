"""Links: how the rewards of a pair become a loss. `training/losses.py` has a case for each."""

from typing import Literal

Link = Literal["logistic", "linear", "nce"]
"""Of the implicit reward, in SPIN and IRFT: see `losses.implicit_reward_loss`."""
PairwiseLink = Literal[Link, "tspin"]
"""Those of the `link` flag. tspin compares three responses and needs no reference: see `losses.tspin_loss`."""
RewardLink = Literal["logistic", "linear"]
"""Of a reward model, in RFT: see `losses.reward_loss`."""
