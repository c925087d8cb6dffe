"""Fields that several methods share: stages, training on pairs, sampling."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from demotune.config.field import SAMPLING, STAGES, field
from demotune.config.links import PairwiseLink
from demotune.config.run import RunConfig, require
from demotune.config.sampler import SamplerFields


@dataclass(frozen=True, kw_only=True)
class Staged(RunConfig):
    """SPIN, IRFT and RFT: sample, train, and again from the policy that came out."""

    stages: int = field(2, STAGES, minimum=1, maximum=10**4, basic=True)
    """T, rounds of new samples and training on them."""
    slices: Literal["disjoint", "all"] = field("disjoint", STAGES)
    """disjoint: each stage has its own part of the data (the paper). all: every stage uses all data."""


@dataclass(frozen=True, kw_only=True)
class Sampled(SamplerFields):
    """How many samples are drawn, how long they get, how many are drawn together, and where."""

    samples_per_prompt: int | None = field(None, SAMPLING, above=0, maximum=10**4, basic=True)
    """M, samples for each demonstration: each makes a pair of its own, and they share the work on prompt and
    demonstration. Not given: 4 below 500 demonstrations, else 1."""
    max_new_tokens: int | None = field(None, SAMPLING, above=0, maximum=10**7, basic=True)
    """Longest sample, in tokens. Not given: as long as the longest demonstration."""
    answer_after: str | None = field(None, SAMPLING)
    """Rewards and pair losses see only what follows the last of these texts in a response, </think> for instance:
    thoughts before it are free. Demonstrations without it are answers."""
    sample_batch_size: int = field(64, SAMPLING, above=0, maximum=10**6)
    """Draw at most this many responses at a time on one device, or one server; fewer where memory is short."""


@dataclass(frozen=True, kw_only=True)
class Pairwise(Staged):
    """SPIN and IRFT: the policy is trained on pairs of a demonstration and a sample; it is its own reward."""

    learned_reward: ClassVar[Literal["implicit"]] = "implicit"

    epochs_per_stage: float = field(2.0, STAGES, above=0, maximum=10**6, basic=True)
    """Passes over the stage's pairs: all M of each demonstration."""
    steps_per_stage: int | None = field(None, STAGES, above=0)
    """K, optimizer steps per stage; overrides epochs_per_stage."""
    beta: float = field(0.1, STAGES, above=0, maximum=10**6, basic=True)
    """Strength of the pull to the reference (DPO's beta); the implicit reward is beta * log pi/pi_ref, per nat. RFT's
    beta is another: the weight of a KL penalty."""
    link: PairwiseLink = field("logistic", STAGES, basic=True)
    """How rewards become a loss: logistic (the paper's code), linear (the paper's formula), nce (no beta), tspin (no
    reference: demonstration above sample, and sample above the start model's sample)."""
    tspin_weight: float = field(1.0, STAGES, minimum=0, maximum=10**6)
    """Weight of sample above the start model's sample in the tspin link."""
    reference: Literal["stage", "initial"] = field("stage", STAGES)
    """Reference policy: the start of this stage, or the start model throughout."""
    history: float = field(0.0, STAGES, minimum=0, maximum=1)
    """Train again on this share of the previous stage's pairs, beside the stage's own (0 to 1)."""
    history_from: Literal["previous", "all"] = field("previous", STAGES)
    """Where the pairs of `history` come from: the previous stage, or, as many, all earlier ones (DITTO's replay)."""
    interpolicy: float = field(0.0, STAGES, minimum=0, maximum=1)
    """Train also on pairs that prefer a later policy's sample to an earlier one's, so many as this share of the stage's
    own (0 to 1; DITTO)."""
    sft_weight: float = field(0.0, STAGES, minimum=0, maximum=10**6)
    """Weight of an added SFT loss (nats per token) on the demonstrations; keeps their likelihood up."""
    optimizer_across_stages: Literal["restart", "carry"] = field("restart", STAGES)
    """restart: optimizer and schedule begin anew each stage. carry: one optimizer and schedule for the run."""
    temperature: float = field(1.0, SAMPLING, minimum=0, maximum=10**3)
    """Sampling temperature; 0 is greedy, which biases the gradient."""
    top_p: float = field(1.0, SAMPLING, above=0, maximum=1)
    """Sample from the smallest set of tokens with this probability; 1 is off."""
    top_k: int = field(0, SAMPLING, minimum=0, maximum=10**7)
    """Sample from the k likeliest tokens; 0 is off."""

    def _check(self) -> None:
        super()._check()
        require(
            self.temperature > 0 or (self.samples_per_prompt or 1) == 1,
            f"greedy samples are all the same, and samples_per_prompt is {self.samples_per_prompt}",
            "raise --temperature, or set --samples-per-prompt 1",
        )
        tspin = self.link == "tspin"
        require(
            not tspin or self.stages == 1 or self.slices == "all",
            "link tspin compares with the start model's samples of the same prompts, and slices is disjoint",
            "set --slices all",
        )
        require(
            not tspin or not (self.interpolicy or self.sft_weight),
            "link tspin knows neither interpolicy pairs nor an SFT loss",
            "drop --interpolicy and --sft-weight, or take another --link",
        )
        require(
            not self.interpolicy or self.slices == "all",
            "interpolicy compares samples of one prompt in several stages, and slices is disjoint",
            "set --slices all, or drop --interpolicy",
        )
        require(
            not self.interpolicy or not self.sft_weight,
            "sft_weight is for demonstrations, and the better sides of interpolicy pairs are samples",
            "drop --sft-weight or --interpolicy",
        )
