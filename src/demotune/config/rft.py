"""The config of RFT."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from demotune.config.field import GUARDS, INPUTS, POLICY, REWARD, field, fields_of
from demotune.config.links import RewardLink
from demotune.config.run import require
from demotune.config.shared_fields import Sampled, Staged

FeatureName = Literal["finished", "repetition", "distinct_bigrams", "prompt_overlap", "log_length"]
"""Numbers of a response that a program counts (`rewards.features`)."""
FULL_ONLY = (
    "reward_learning_rate", "reward_epochs", "reward_steps", "reward_eval_steps", "reward_patience", "reward_link",
    "reward_bound", "center_rewards_coefficient", "reward_frozen_layers",
)  # fmt: skip
LINEAR_ONLY = ("reward_question", "reward_features")


@dataclass(frozen=True, kw_only=True)
class Prompted(Staged):
    """Policy steps need prompts only, so there may be more of them than demonstrations."""

    prompts: tuple[str, ...] = field((), INPUTS, names="prompts")
    """Files of further prompts without demonstrations (.txt: one a line; else data: prompt or messages); repeatable."""


@dataclass(frozen=True, kw_only=True)
class RFTConfig(Sampled, Prompted):
    """RFT (arXiv 2405.17888, Algorithm 1): T times a reward learned from pairs, then the policy trained with it.

    The reward is a model of its own; the policy maximises it by on-policy reinforcement learning, less a KL penalty
    to the start model. `learning_rate` is the policy's.
    """

    method: ClassVar[Literal["rft"]] = "rft"
    learned_reward: ClassVar[Literal["explicit"]] = "explicit"

    learning_rate: float = 5e-6
    """Peak learning rate of the policy in each stage."""

    reward_kind: Literal["full", "linear"] = field("full", REWARD, basic=True)
    """What the reward is: full, a model trained by gradient steps; linear, logistic regression on the frozen hidden
    state at the end of the response, fitted in seconds."""
    reward_model: str | None = field(None, REWARD, names="model")
    """Where the reward starts: a model of the same vocabulary, or a run of rft. Not given: the policy's weights. Of a
    linear reward the frozen model. Not given: the start model."""
    reward_question: str | None = field(None, REWARD)
    """Linear reward: read the state after this text, appended to the response; "Is this a good answer?" for one."""
    reward_features: tuple[FeatureName, ...] = field((), REWARD)
    """Linear reward: features that it sees besides: finished, repetition, distinct_bigrams, prompt_overlap, log_length;
    repeat or separate by commas."""
    reward_positives: Literal["demonstrations", "start"] = field("demonstrations", REWARD)
    """What the reward learns to prefer: demonstrations, or samples of the start model (SFT's, against base)."""
    reward_negatives: tuple[Literal["policy", "start", "base"], ...] = field(("policy",), REWARD)
    """To samples of which models: the stage's policy, the start model, the model before SFT (base), or several; repeat
    or separate by commas."""
    base_model: str | None = field(None, REWARD, names="model")
    """The model before SFT, for base. Not given: what the run of sft that made the start model began with."""
    reward_learning_rate: float = field(2e-5, REWARD, above=0, maximum=10**3)
    """Peak learning rate of the reward in each stage; with LoRA ten times as much is usual."""
    reward_epochs: float = field(2.0, REWARD, above=0, maximum=10**6)
    """Passes over the stage's pairs, unless the held-out pairs stop the reward earlier."""
    reward_steps: int | None = field(None, REWARD, above=0)
    """K, reward steps per stage; overrides reward_epochs."""
    reward_eval_steps: int = field(5, REWARD, above=0)
    """Evaluate the reward on held-out pairs every N steps; the one with the lowest loss is kept."""
    reward_patience: int = field(3, REWARD, above=0)
    """Stop reward steps after this many evaluations without a lower loss or a higher accuracy."""
    reward_link: RewardLink = field("logistic", REWARD)
    """How rewards become a loss: logistic (Bradley-Terry), or linear (the paper's formula; needs reward_bound)."""
    reward_bound: float | None = field(None, REWARD, above=0, maximum=10**6)
    """R: rewards lie in [0, R], by R * sigmoid of the head. Not given: unbounded (logistic only)."""
    center_rewards_coefficient: float = field(0.0, REWARD, minimum=0, maximum=10**6)
    """Weight of (demo reward + sample reward)^2 in the reward's loss; 0 is off. Unbounded rewards only."""
    reward_frozen_layers: int = field(0, REWARD, minimum=0, maximum=10**4)
    """Do not train the embeddings and this many lower layers of the reward."""
    finished_only: bool = field(True, REWARD)
    """Train the reward only on pairs where demonstration and sample both end with the end-of-turn token."""

    reward_every: int | None = field(None, REWARD, above=0, maximum=10**6)
    """Co-training: after every so many on-policy batches the reward learns to separate their responses, too, from
    demonstrations. Not given: it stays as it is while the policy is trained on it."""
    reward_replay: float = field(0.5, REWARD, minimum=0, maximum=0.99)
    """Co-training: share of earlier pairs, the stage's own and those of earlier batches, in what the reward learns."""

    beta: float = field(0.05, POLICY, above=0, maximum=10**6, basic=True)
    """Weight of the KL penalty to the start model (GRPO's beta), in reward units per nat. The beta of SPIN and IRFT is
    another: DPO's."""
    advantage: Literal["rloo", "group", "gae"] = field("rloo", POLICY)
    """rloo: leave-one-out baseline. group: normalised within the prompt (GRPO). gae: a value head (PPO)."""
    prompts_per_batch: int = field(16, POLICY, above=0, maximum=10**6)
    """Prompts of one on-policy batch."""
    num_generations: int = field(4, POLICY, above=0, maximum=10**6, basic=True)
    """Responses per prompt."""
    policy_epochs: float = field(1.0, POLICY, above=0, maximum=10**6)
    """Passes over the stage's prompts."""
    policy_batches: int | None = field(None, POLICY, above=0)
    """On-policy batches per stage; overrides policy_epochs."""
    num_iterations: int = field(1, POLICY, above=0, maximum=10**4)
    """Passes of clipped updates over each on-policy batch."""
    num_mini_batches: int = field(1, POLICY, above=0, maximum=10**6)
    """Optimizer steps per such pass."""
    epsilon: float = field(0.2, POLICY, above=0, maximum=10**3)
    """Clip the probability ratio to 1 - epsilon and 1 + epsilon, as PPO does."""
    kl_estimator: Literal["k1", "k3"] = field("k1", POLICY)
    """KL penalty from a sample: k1 (unbiased, log pi/pi_0) or k3 (never negative, less variance, a biased gradient)."""
    kl_target: float | None = field(None, POLICY, above=0, maximum=10**6)
    """Adapt beta so that the KL to the start model reaches this many nats per response. Not given: beta is fixed."""
    lam: float = field(1.0, POLICY, minimum=0, maximum=1)
    """Lambda of gae: 1 is unbiased, less has less variance."""
    whiten_rewards: bool = field(False, POLICY)
    """Standardise each batch's rewards before the KL penalty."""
    reward_clip: float | None = field(None, POLICY, above=0, maximum=10**6)
    """Clip rewards to plus or minus this (after whitening). Not given: off."""
    missing_eos_penalty: float = field(1.0, POLICY, minimum=0, maximum=10**6)
    """Subtract this from the reward of a response that was cut off: the reward was not trained on such responses."""

    force: bool = field(False, GUARDS)
    """Take policy steps even where held-out pairs show the reward to be no better than chance or than a shortcut."""
    stop_kl: float = field(50.0, GUARDS, minimum=0)
    """Stop the stage's policy steps above this KL to the start model, in nats per response; 0 is off."""
    stop_length_ratio: float = field(3.0, GUARDS, minimum=0)
    """Stop when responses are this many times as long as demonstrations or as the first samples; 0 is off."""
    stop_unfinished: float = field(0.3, GUARDS, minimum=0)
    """Stop when the share of cut-off responses exceeds that of the stage's first samples by this much; 0 is off."""
    stop_reward_margin: float = field(2.0, GUARDS, minimum=0)
    """Stop when the mean reward of samples exceeds that of demonstrations by this much (over-optimisation); 0 is
    off."""

    def _check(self) -> None:
        super()._check()
        self._check_kind()
        self._check_features()
        self._check_contrast()
        self._check_co_training()
        require(
            self.reward_link == "logistic" or self.reward_bound is not None,
            "a linear reward_link without reward_bound has no optimum: rewards grow for ever",
            "give --reward-bound, for example 1",
        )
        require(
            self.reward_bound is None or self.center_rewards_coefficient == 0,
            "center_rewards_coefficient pulls rewards to 0, which bounded rewards [0, R] lie above",
            "drop it, or drop reward_bound",
        )
        alone = self.advantage == "gae"
        require(
            alone or self.num_generations > 1,
            f"advantage {self.advantage} compares responses to one prompt, num_generations is {self.num_generations}",
            "set --num-generations 4, or --advantage gae",
        )
        responses = self.prompts_per_batch * self.num_generations
        require(
            responses % self.num_mini_batches == 0,
            f"{responses} responses of a batch cannot be cut into {self.num_mini_batches} equal mini-batches",
            "choose num_mini_batches so that it divides prompts_per_batch * num_generations",
        )
        require(alone or self.lam == 1.0, f"lam belongs to gae, not {self.advantage}", "drop --lam")

    def _check_co_training(self) -> None:
        """What only co-training reads must be left alone without it."""
        require(
            self.reward_every is not None or self.reward_replay == fields_of(type(self))["reward_replay"].default,
            "reward_replay belongs to co-training, and reward_every is not given",
            "drop it, or give --reward-every 1",
        )

    def _check_kind(self) -> None:
        """A field that only the other kind of reward reads must be left alone."""
        of, other = (LINEAR_ONLY, "linear") if self.reward_kind == "full" else (FULL_ONLY, "full")
        defaults = fields_of(type(self))
        for name in of:
            require(
                getattr(self, name) == defaults[name].default,
                f"{name} belongs to reward_kind {other}, and this is {self.reward_kind}",
                f"drop --{name.replace('_', '-')}, or give --reward-kind {other}",
            )

    def _check_features(self) -> None:
        """Each once, and none that is the same on both sides of every pair."""
        features = self.reward_features
        require(
            len(set(features)) == len(features),
            f"reward_features names one twice ({', '.join(features)})",
            "name each once",
        )
        require(
            "finished" not in features or not self.finished_only,
            "reward_features finished says nothing where only responses that end by themselves train the reward",
            "drop it, or give --no-finished-only",
        )

    def _check_contrast(self) -> None:
        """Both sides must be there, and differ."""
        negatives = self.reward_negatives
        require(
            len(set(negatives)) == len(negatives) > 0,
            f"reward_negatives must be different models, got {', '.join(negatives) or 'none'}",
            "give one or several of policy, start, base",
        )
        require(
            self.reward_positives == "demonstrations" or negatives == ("base",),
            "reward_positives start prefers samples of the start model, which is also the first stage's policy",
            "give --reward-negatives base",
        )
        require(
            self.base_model is None or "base" in negatives,
            "base_model is given, and no sample of it is asked for",
            "add --reward-negatives base, or drop --base-model",
        )
