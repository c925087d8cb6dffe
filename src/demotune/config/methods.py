"""One frozen config per run. The docstring under a field is its help text on the command line.

`RunConfig` holds what every method needs; each method adds its own fields, one level deep and no deeper. A field
that a method does not have does not exist for it: loading refuses it and names the nearest one.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from demotune.common.errors import DemotuneError
from demotune.config.limits import check_numbers, shown

Method = Literal["sft", "spin", "irft", "rft"]
LinkName = Literal["logistic", "linear", "nce"]
RewardLinkName = Literal["logistic", "linear"]
AdvantageName = Literal["rloo", "group", "gae"]
KLEstimatorName = Literal["k1", "k3"]
RewardKind = Literal["none", "implicit", "explicit"]
"""What a method learns beside the policy: nothing; beta * log pi/pi_ref of the policy itself; a reward model."""


def _require(holds: bool, problem: str, fix: str) -> None:
    if not holds:
        raise DemotuneError(f"{problem}; {fix}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every method needs: model, data, optimisation, precision, adapters, bookkeeping."""

    required: ClassVar[frozenset[str]] = frozenset({"model", "data", "output"})
    method: ClassVar[str]
    """The method's name: its command, and what run.yaml begins with."""
    reward_kind: ClassVar[RewardKind] = "none"

    # What holds for a method that has no field of the name.

    @property
    def stages(self) -> int:
        """One pass through the method's phases."""
        return 1

    @property
    def slices(self) -> Literal["all", "disjoint"]:
        """Each stage uses all data."""
        return "all"

    @property
    def prompts(self) -> tuple[str, ...]:
        """No prompts beside those of the demonstrations."""
        return ()

    @property
    def reward_model(self) -> str | None:
        """No reward to start from."""
        return None

    @property
    def max_new_tokens(self) -> int | None:
        """Held-out answers are as long as the longest demonstration."""
        return None

    @property
    def sample_batch_size(self) -> int:
        """Held-out prompts that are answered together."""
        return 64

    @property
    def temperature(self) -> float:
        """Samples are those of the policy itself: temperature 1, top_p and top_k off."""
        return 1.0

    @property
    def top_p(self) -> float:
        return 1.0

    @property
    def top_k(self) -> int:
        return 0

    model: str = ""
    """Start model: a hub id, a folder with safetensors (a model or a LoRA adapter), a finished run, or a GGUF file."""
    data: tuple[str, ...] = ()
    """Demonstrations: file (JSONL, JSON, CSV, Parquet, any of them gzipped), folder, or hub id; repeat for several."""
    output: str = ""
    """Run folder. Created by this run; must not hold another one."""

    eval_data: tuple[str, ...] = ()
    """Held-out demonstrations. Without them, `eval_share` of the data is held out."""
    eval_share: float = 0.1
    """Share of the data held out when no eval_data is given (0 to 0.5), chosen by a hash of the prompt."""
    max_eval_rows: int = 200
    """Evaluate on at most this many held-out rows."""
    max_rows: int | None = None
    """Use only the first N good rows of the data (all when not given)."""
    data_weights: tuple[float, ...] = ()
    """Shares of several data sources, one number each; the largest such mixture that repeats no row."""
    columns: str | None = None
    """Which columns to read, for example prompt=question,response=answer or messages=dialogue; beside the text also
    system, history, tools, documents and reasoning. Detected when not given."""
    every_turn: bool = False
    """Treat each assistant turn of a conversation as a demonstration, not only the last."""
    template: str | None = None
    """Prompt template with {prompt}, used instead of the tokenizer's chat template."""
    max_length: int = 1024
    """Longest prompt plus response, in tokens."""
    overlong: Literal["quarantine", "truncate-prompt", "truncate-response"] = "quarantine"
    """What happens to a longer row; each is counted. truncate-prompt cuts the oldest prompt tokens."""
    max_bad_share: float = 0.05
    """Stop before training when more than this share of rows is bad (0 to 1)."""

    learning_rate: float
    """Peak learning rate."""
    per_device_train_batch_size: int = 8
    """Rows (SFT; RFT's policy) or pairs (SPIN, IRFT; RFT's reward) in one forward pass on one device."""
    tokens_per_microbatch: int | None = None
    """Cut a forward pass with gradients to this many tokens; gradients stay exact. Not given: what fits into memory."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    optim: str = "adamw_torch_fused"
    """Optimizer, by its transformers name: adamw_torch_fused, rmsprop, adafactor, sgd, ..."""
    lr_scheduler_type: str = "linear"
    """Learning-rate schedule, by its transformers name: linear, cosine, constant_with_warmup, ..."""
    warmup_steps: float = 0.1
    """Warm-up: a number of steps, or below 1 a share of all steps; none where a stage has fewer than ten."""
    weight_decay: float = 0.0
    """Weight decay."""
    max_grad_norm: float = 1.0
    """Clip the gradient to this norm; 0 turns clipping off."""
    bf16: bool | None = None
    """Compute in bfloat16 autocast. When not given: yes where the hardware has it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the weights are held and saved."""
    activation_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, a third more time. Not given: if memory asks for it."""
    attn_implementation: str | None = None
    """Attention of transformers: eager, sdpa, flash_attention_2, ... Not given: our own, which needs no padding."""

    gate: Literal["off", "warn", "stop"] = "warn"
    """After each stage compare held-out rows with the best policy so far; export the best. stop: end if it is worse."""

    use_peft: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_r: int = 16
    """LoRA rank."""
    lora_alpha: int = 32
    """LoRA scale; the update is multiplied by alpha / rank."""
    lora_target_modules: tuple[str, ...] = ("all-linear",)
    """Modules that get an adapter, by name; all-linear means every linear layer but the head."""
    merge_adapter: bool = False
    """Also write model-merged/, the adapter folded into the base model."""

    seed: int = 42
    """Seed of everything random; same seed, same machine, same result."""
    logging_steps: int = 1
    """Record metrics every N optimizer steps."""
    save_steps: int = 100
    """Write a checkpoint every N optimizer steps of a stage; a killed run repeats at most that many."""
    report_to: tuple[str, ...] = ()
    """Also log to tensorboard, trackio or wandb (must be installed); none or all as in transformers."""
    run_name: str | None = None
    """Name of the run for report_to."""
    profile: bool = False
    """Print at the end where the time went, as a share of the machine's ceiling."""

    def _check_shared(self) -> None:
        check_numbers(vars(self))
        _require(bool(self.output), "output is missing", "name a folder for the run with --output")
        _require(0 <= self.eval_share <= 0.5, f"eval_share must be 0 to 0.5, got {self.eval_share}", "0.1 is usual")
        _require(
            len(self.data_weights) in (0, len(self.data)),
            f"data_weights has {len(self.data_weights)} numbers for {len(self.data)} data sources",
            "give one weight for each --data",
        )
        _require(all(w > 0 for w in self.data_weights), f"data_weights must be > 0, got {self.data_weights}", "drop it")
        if self.template is not None:
            _require(
                self.template.count("{prompt}") == 1,
                f"template must contain {{prompt}} once, got {shown(self.template)}",
                r"write for example --template $'### Instruction: {prompt}\n\n### Response: '",
            )
        _require(0 <= self.max_bad_share <= 1, f"max_bad_share must be 0 to 1, got {self.max_bad_share}", "0.05 is 5%")
        for name in (
            "learning_rate",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "lora_r",
            "lora_alpha",
            "logging_steps",
            "save_steps",
            "max_eval_rows",
        ):
            value = getattr(self, name)
            _require(value > 0, f"{name} must be > 0, got {value}", f"set {name} in the YAML file or with its flag")
        _require(self.max_length >= 2, f"max_length must be at least 2 tokens, got {self.max_length}", "1024 is usual")
        _require(
            self.max_rows is None or self.max_rows > 0, f"max_rows must be > 0, got {self.max_rows}", "or leave out"
        )
        budget = self.tokens_per_microbatch
        _require(budget is None or budget > 0, f"tokens_per_microbatch must be > 0, got {budget}", "or leave it out")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} must be >= 0, got {value}", f"set {name} in the YAML file or with its flag")
        _require(
            self.use_peft or not self.merge_adapter,
            "merge_adapter needs use_peft",
            "add --use-peft or drop --merge-adapter",
        )


@dataclass(frozen=True, kw_only=True)
class SFTConfig(RunConfig):
    """Supervised fine-tuning: maximise the log-likelihood of the demonstrations, response tokens only."""

    method: ClassVar[Method] = "sft"
    reward_kind: ClassVar[Literal["none"]] = "none"

    learning_rate: float = 2e-5
    """Peak learning rate."""
    num_train_epochs: float = 2.0
    """Passes over the demonstrations. Fewer when IRFT follows: it learns little from rows known by heart."""
    max_steps: int | None = None
    """Number of optimizer steps; overrides num_train_epochs."""

    def __post_init__(self) -> None:
        self._check_shared()
        _check_amount(self.num_train_epochs, "num_train_epochs", self.max_steps, "max_steps")


@dataclass(frozen=True, kw_only=True)
class SPINConfig(RunConfig):
    """SPIN (arXiv 2401.01335): sample from the policy, then prefer demonstrations to samples. IRFT with T = 1.

    A SPIN iteration is one stage, on all data. The link is logistic, the reference is the stage's start policy.
    """

    method: ClassVar[Method] = "spin"
    reward_kind: ClassVar[Literal["implicit"]] = "implicit"
    reference: ClassVar[Literal["stage", "initial"]] = "stage"

    learning_rate: float = 5e-6
    """Peak learning rate of each stage; about a quarter of the rate that SFT took."""
    stages: int = 1
    """SPIN iterations; each samples anew from the policy of the previous one."""
    slices: Literal["all", "disjoint"] = "all"
    """all: every stage uses all data. disjoint: each stage has its own part of the data."""
    epochs_per_stage: float = 2.0
    """Passes over the stage's pairs."""
    steps_per_stage: int | None = None
    """K, optimizer steps per stage; overrides epochs_per_stage."""
    beta: float = 0.1
    """Strength of the pull to the reference; the implicit reward is beta * log pi/pi_ref, per nat."""
    history: float = 0.0
    """Share of the previous stage's pairs that is trained on again (0 to 1)."""
    optimizer_across_stages: Literal["restart", "carry"] = "restart"
    """restart: optimizer and schedule begin anew each stage. carry: one optimizer and schedule for the run."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy, which biases the gradient."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this probability; 1 is off."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 is off."""
    max_new_tokens: int | None = None
    """Longest sample, in tokens. When not given: as long as the longest demonstration."""
    sample_batch_size: int = 64
    """Most responses written at a time on one device; fewer where memory is short."""

    def __post_init__(self) -> None:
        self._check_shared()
        _check_stages(self)


@dataclass(frozen=True, kw_only=True)
class IRFTConfig(RunConfig):
    """IRFT (arXiv 2405.17888, Algorithm 2): T stages, each samples from its start policy and takes K steps."""

    method: ClassVar[Method] = "irft"
    reward_kind: ClassVar[Literal["implicit"]] = "implicit"

    learning_rate: float = 5e-6
    """Peak learning rate of each stage; about a quarter of the rate that SFT took."""
    stages: int = 2
    """T, how often new samples are drawn from the policy."""
    slices: Literal["disjoint", "all"] = "disjoint"
    """disjoint: each stage has its own part of the data (the paper). all: every stage uses all data."""
    epochs_per_stage: float = 2.0
    """Passes over the stage's pairs."""
    steps_per_stage: int | None = None
    """K, optimizer steps per stage; overrides epochs_per_stage."""
    beta: float = 0.1
    """Strength of the pull to the reference; the implicit reward is beta * log pi/pi_ref, per nat."""
    link: LinkName = "logistic"
    """How rewards become a loss: logistic (the paper's code), linear (the paper's formula), nce (no beta)."""
    reference: Literal["stage", "initial"] = "stage"
    """Reference policy: the start of this stage, or the start model throughout."""
    history: float = 0.0
    """Share of the previous stage's pairs that is trained on again (0 to 1)."""
    sft_weight: float = 0.0
    """Weight of an added SFT loss (nats per token) on the demonstrations; keeps their likelihood up."""
    optimizer_across_stages: Literal["restart", "carry"] = "restart"
    """restart: optimizer and schedule begin anew each stage. carry: one optimizer and schedule for the run."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy, which biases the gradient."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this probability; 1 is off."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 is off."""
    max_new_tokens: int | None = None
    """Longest sample, in tokens. When not given: as long as the longest demonstration."""
    sample_batch_size: int = 64
    """Most responses written at a time on one device; fewer where memory is short."""

    def __post_init__(self) -> None:
        self._check_shared()
        _check_stages(self)
        _require(self.sft_weight >= 0, f"sft_weight must be >= 0, got {self.sft_weight}", "0 turns it off")


@dataclass(frozen=True, kw_only=True)
class RFTConfig(RunConfig):
    """RFT (arXiv 2405.17888, Algorithm 1): T times a reward learned from pairs, then the policy trained with it.

    The reward is a model of its own; the policy maximises it by on-policy reinforcement learning, less a KL penalty
    to the start model. `learning_rate` is the policy's.
    """

    method: ClassVar[Method] = "rft"
    reward_kind: ClassVar[Literal["explicit"]] = "explicit"

    learning_rate: float = 5e-6
    """Peak learning rate of the policy in each stage."""
    stages: int = 2
    """T, how often new samples are drawn and the reward is trained on."""
    slices: Literal["disjoint", "all"] = "disjoint"
    """disjoint: each stage has its own part of the data (the paper). all: every stage uses all data."""
    prompts: tuple[str, ...] = ()
    """Files of further prompts without demonstrations (.txt: one a line; else data: prompt or messages); repeatable."""
    max_new_tokens: int | None = None
    """Longest sample, in tokens. When not given: as long as the longest demonstration."""
    sample_batch_size: int = 64
    """Most responses written at a time on one device; fewer where memory is short."""

    reward_model: str | None = None
    """Where the reward starts: a model of the same vocabulary, or a run of rft. Not given: the policy's weights."""
    reward_learning_rate: float = 2e-5
    """Peak learning rate of the reward in each stage; with LoRA ten times as much is usual."""
    reward_epochs: float = 2.0
    """Passes over the stage's pairs, unless the held-out pairs stop the reward earlier."""
    reward_steps: int | None = None
    """K, reward steps per stage; overrides reward_epochs."""
    reward_eval_steps: int = 5
    """Judge the reward on held-out pairs every N steps; the one with the lowest loss is kept."""
    reward_patience: int = 3
    """Stop reward steps after so many judgements without a lower loss or a higher accuracy."""
    reward_link: RewardLinkName = "logistic"
    """How rewards become a loss: logistic (Bradley-Terry), or linear (the paper's formula; needs reward_bound)."""
    reward_bound: float | None = None
    """R: rewards lie in [0, R], by R * sigmoid of the head. Not given: unbounded (logistic only)."""
    center_rewards_coefficient: float = 0.0
    """Weight of (demo reward + sample reward)^2 in the reward's loss; 0 is off. Unbounded rewards only."""
    reward_frozen_layers: int = 0
    """Keep the embeddings and this many lower layers of the reward as they are."""
    finished_only: bool = True
    """Train the reward only on pairs where demonstration and sample both end by themselves."""

    beta: float = 0.05
    """Weight of the KL penalty to the start model, in reward units per nat."""
    advantage: AdvantageName = "rloo"
    """rloo: leave-one-out baseline. group: normalised within the prompt (GRPO). gae: a value head (PPO)."""
    prompts_per_batch: int = 16
    """Prompts of one on-policy batch."""
    num_generations: int = 4
    """Responses per prompt."""
    policy_epochs: float = 1.0
    """Passes over the stage's prompts."""
    policy_batches: int | None = None
    """On-policy batches per stage; overrides policy_epochs."""
    num_iterations: int = 1
    """Passes of clipped updates over each on-policy batch."""
    num_mini_batches: int = 1
    """Optimizer steps per such pass."""
    epsilon: float = 0.2
    """Clip: the probability ratio's gain ends at 1 + epsilon and 1 - epsilon."""
    kl_estimator: KLEstimatorName = "k1"
    """KL penalty from a sample: k1 (unbiased, log pi/pi_0) or k3 (never negative, less variance, a biased gradient)."""
    kl_target: float | None = None
    """Adapt beta so that the KL to the start model comes to this many nats per response. Not given: beta is fixed."""
    lam: float = 1.0
    """Lambda of gae: 1 is unbiased, less has less variance."""
    whiten_rewards: bool = False
    """Standardise each batch's rewards before the KL penalty."""
    reward_clip: float | None = None
    """Clip rewards to plus or minus this (after whitening). Not given: off."""
    missing_eos_penalty: float = 1.0
    """Taken off the reward of a response that was cut off: the reward has not seen such responses."""

    stop_kl: float = 50.0
    """Guard: stop the stage's policy steps above this KL to the start model, nats per response; 0 is off."""
    stop_length_ratio: float = 3.0
    """Guard: stop when responses are so many times the length of demonstrations or of first samples; 0 is off."""
    stop_unfinished: float = 0.3
    """Guard: stop when the share of cut-off responses has risen so much over the stage's first samples; 0 is off."""
    stop_reward_margin: float = 2.0
    """Guard: stop when samples earn so much more reward than demonstrations (over-optimisation); 0 is off."""

    def __post_init__(self) -> None:
        self._check_shared()
        _check_samples(self)
        _check_reward(self)
        _check_policy(self)


PairwiseConfig = SPINConfig | IRFTConfig
AnyConfig = SFTConfig | SPINConfig | IRFTConfig | RFTConfig
CONFIGS: dict[Method, type[AnyConfig]] = {"sft": SFTConfig, "spin": SPINConfig, "irft": IRFTConfig, "rft": RFTConfig}


def _check_amount(epochs: float, epochs_name: str, steps: int | None, steps_name: str) -> None:
    _require(epochs > 0, f"{epochs_name} must be > 0, got {epochs}", f"or give {steps_name}")
    _require(steps is None or steps > 0, f"{steps_name} must be > 0, got {steps}", f"or leave it to {epochs_name}")


def _check_stages(config: PairwiseConfig) -> None:
    _check_amount(config.epochs_per_stage, "epochs_per_stage", config.steps_per_stage, "steps_per_stage")
    _check_samples(config)
    _require(0 <= config.history <= 1, f"history must be 0 to 1, got {config.history}", "it is a share of pairs")
    _require(config.temperature >= 0, f"temperature must be >= 0, got {config.temperature}", "1 samples the policy")
    _require(0 < config.top_p <= 1, f"top_p must be above 0, at most 1, got {config.top_p}", "1 turns it off")
    _require(config.top_k >= 0, f"top_k must be >= 0, got {config.top_k}", "0 turns it off")


def _check_samples(config: PairwiseConfig | RFTConfig) -> None:
    _require(config.stages >= 1, f"stages must be at least 1, got {config.stages}", "2 is usual")
    _require(config.beta > 0, f"beta must be > 0, got {config.beta}", "0.1 is usual")
    _require(
        config.max_new_tokens is None or config.max_new_tokens > 0,
        f"max_new_tokens must be > 0, got {config.max_new_tokens}",
        "or leave it out",
    )
    _require(config.sample_batch_size > 0, f"sample_batch_size must be > 0, got {config.sample_batch_size}", "try 32")


def _check_reward(config: RFTConfig) -> None:
    _check_amount(config.reward_epochs, "reward_epochs", config.reward_steps, "reward_steps")
    for name in ("reward_learning_rate", "reward_eval_steps", "reward_patience"):
        value = getattr(config, name)
        _require(value > 0, f"{name} must be > 0, got {value}", f"set {name} in the YAML file or with its flag")
    for name in ("center_rewards_coefficient", "reward_frozen_layers"):
        _require(getattr(config, name) >= 0, f"{name} must be >= 0, got {getattr(config, name)}", "0 turns it off")
    bound = config.reward_bound
    _require(bound is None or bound > 0, f"reward_bound must be > 0, got {bound}", "1 is usual")
    _require(
        config.reward_link == "logistic" or bound is not None,
        "a linear reward_link without reward_bound has no optimum: rewards grow for ever",
        "give --reward-bound, for example 1",
    )
    _require(
        bound is None or config.center_rewards_coefficient == 0,
        "center_rewards_coefficient pulls rewards to 0, which bounded rewards [0, R] lie above",
        "drop it, or drop reward_bound",
    )


def _check_policy(config: RFTConfig) -> None:
    _check_amount(config.policy_epochs, "policy_epochs", config.policy_batches, "policy_batches")
    for name in ("prompts_per_batch", "num_generations", "num_iterations", "num_mini_batches", "epsilon"):
        value = getattr(config, name)
        _require(value > 0, f"{name} must be > 0, got {value}", f"set {name} in the YAML file or with its flag")
    _require(
        config.advantage == "gae" or config.num_generations > 1,
        f"advantage {config.advantage} compares responses to one prompt, num_generations is {config.num_generations}",
        "set --num-generations 4, or --advantage gae",
    )
    responses = config.prompts_per_batch * config.num_generations
    _require(
        responses % config.num_mini_batches == 0,
        f"{responses} responses of a batch cannot be cut into {config.num_mini_batches} equal mini-batches",
        "choose num_mini_batches so that it divides prompts_per_batch * num_generations",
    )
    _require(0 <= config.lam <= 1, f"lam must be 0 to 1, got {config.lam}", "1 is unbiased")
    _require(
        config.advantage == "gae" or config.lam == 1.0, f"lam belongs to gae, not {config.advantage}", "drop --lam"
    )
    for name in ("kl_target", "reward_clip"):
        value = getattr(config, name)
        _require(value is None or value > 0, f"{name} must be > 0, got {value}", "or leave it out")
    for name in ("missing_eos_penalty", "stop_kl", "stop_length_ratio", "stop_unfinished", "stop_reward_margin"):
        _require(getattr(config, name) >= 0, f"{name} must be >= 0, got {getattr(config, name)}", "0 turns it off")


def as_dict(config: AnyConfig) -> dict[str, object]:
    """The config as plain values, `method` first: what run.yaml holds and what the config hash is taken of."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {"method": config.method} | {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
