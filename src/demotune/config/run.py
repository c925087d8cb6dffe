"""What every method needs: model, data, optimisation, precision, adapters, bookkeeping."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from demotune.common.errors import DemotuneError
from demotune.config.field import BOOKKEEPING, INPUTS, LORA, OPTIMISATION, READING, field
from demotune.config.values import Config, shown

LearnedReward = Literal["none", "implicit", "explicit"]
"""What a method learns besides the policy: nothing; beta * log pi/pi_ref of the policy itself; a reward model."""


class Absent(Config):
    """What holds for a method that has no field of the name; no field of run.yaml, and no flag."""

    stages: int = 1
    slices: Literal["disjoint", "all"] = "all"
    prompts: tuple[str, ...] = ()
    samples_per_prompt: int | None = 1
    reward_model: str | None = None
    reward_question: str | None = None
    reward_negatives: tuple[str, ...] = ()
    base_model: str | None = None
    max_new_tokens: int | None = None
    answer_after: str | None = None
    sample_batch_size: int = 64
    sampler: str = "in_process"
    vllm_python: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig(Absent):
    """One frozen config per run; each method adds its own fields. The docstring under a field is its help text."""

    method: ClassVar[str]
    """The command, and what run.yaml begins with."""
    learned_reward: ClassVar[LearnedReward] = "none"

    model: str = field("", INPUTS, required=True, names="model", basic=True)
    """Start model: a hub id, a folder with safetensors (a model or a LoRA adapter), a finished run, or a GGUF file."""
    data: tuple[str, ...] = field((), INPUTS, required=True, names="rows", basic=True)
    """Demonstrations: file (JSONL, JSON, CSV, Parquet, any of them gzipped), folder, or hub id; repeat for several."""
    output: str = field("", INPUTS, required=True, basic=True)
    """Run folder. The run creates it; it must not hold another run."""

    eval_data: tuple[str, ...] = field((), INPUTS, names="rows")
    """Held-out demonstrations. Without them, `eval_share` of the data is held out."""
    eval_share: float = field(0.1, INPUTS, minimum=0, maximum=0.5)
    """Share of the data held out when no eval_data is given (0 to 0.5), chosen by a hash of the prompt."""
    max_eval_rows: int = field(200, INPUTS, above=0)
    """Evaluate on at most this many held-out rows."""
    max_rows: int | None = field(None, READING, above=0)
    """Use only the first N good rows of the data (all when not given)."""
    data_weights: tuple[float, ...] = field((), READING, above=0)
    """Mix several data sources in these shares, one number for each; no row is repeated, so some rows are left out."""
    columns: str | None = field(None, READING, names="columns", basic=True)
    """Read these columns: prompt=question,response=answer or messages=dialogue, for example; besides the text also
    system, history, tools, documents and reasoning. Detected when not given."""
    every_turn: bool = field(False, READING)
    """Make one demonstration of each assistant turn in a conversation. Otherwise only the last turn is one."""
    template: str | None = field(None, READING)
    """Prompt template with {prompt}, used instead of the tokenizer's chat template."""
    max_length: int = field(1024, READING, minimum=2, maximum=10**7, basic=True)
    """Longest prompt plus response, in tokens."""
    overlong: Literal["quarantine", "truncate-prompt", "truncate-response"] = field("quarantine", READING)
    """Leave longer rows out (quarantine), or cut them; each is counted. truncate-prompt cuts the oldest tokens."""
    max_bad_share: float = field(0.05, READING, minimum=0, maximum=1)
    """Stop before training when more than this share of rows is bad (0 to 1)."""

    learning_rate: float = field(panel=OPTIMISATION, above=0, maximum=10**3, basic=True)
    """Peak learning rate."""
    per_device_train_batch_size: int = field(8, OPTIMISATION, above=0, maximum=10**6, basic=True)
    """Rows or pairs in one forward pass on one device (rows: SFT, RFT's policy; pairs: SPIN, IRFT, RFT's reward). Pairs
    of one demonstration stay together: fewer where the next do not fit, and best a multiple of samples_per_prompt."""
    tokens_per_microbatch: int | None = field(None, OPTIMISATION, above=0)
    """Split a forward pass with gradients into parts of this many tokens; gradients stay exact. Not given: what fits
    into memory."""
    gradient_accumulation_steps: int = field(1, OPTIMISATION, above=0, maximum=10**6)
    """Forward passes per optimizer step."""
    optim: str = field("adamw_torch_fused", OPTIMISATION)
    """Optimizer, by its transformers name: adamw_torch_fused, rmsprop, adafactor, sgd, ..."""
    lr_scheduler_type: str = field("linear", OPTIMISATION)
    """Learning-rate schedule, by its transformers name: linear, cosine, constant_with_warmup, ..."""
    warmup_steps: float = field(0.1, OPTIMISATION, minimum=0)
    """Warm-up: a number of steps, or below 1 a share of all steps; none where a stage has fewer than ten."""
    weight_decay: float = field(0.0, OPTIMISATION, minimum=0, maximum=10**3)
    """Weight decay."""
    max_grad_norm: float = field(1.0, OPTIMISATION, minimum=0)
    """Clip the gradient to this norm; 0 turns clipping off."""
    bf16: bool | None = field(None, OPTIMISATION)
    """Compute in bfloat16 autocast. Not given: where the hardware has it."""
    dtype: Literal["float32", "bfloat16"] = field("float32", OPTIMISATION)
    """Type in which the weights are held and saved."""
    activation_checkpointing: bool | None = field(None, OPTIMISATION)
    """Recompute activations in the backward pass: less memory, a third more time. Not given: where memory is short."""
    attn_implementation: str | None = field(None, OPTIMISATION)
    """Attention of transformers: eager, sdpa, flash_attention_2, ... Not given: our own, which needs no padding."""

    use_liger_kernel: bool = field(False, OPTIMISATION)
    """Use Liger's kernels for the layers of models that have them (CUDA; pip install liger-kernel). The losses stay."""

    gate: Literal["off", "warn", "stop"] = field("warn", INPUTS)
    """Compare the policy after each stage with the best one so far, on held-out rows; the best is exported. stop: end
    the run after a stage that is worse. off: export the last stage."""

    use_peft: bool = field(False, LORA, basic=True)
    """Train a LoRA adapter instead of all weights."""
    lora_r: int = field(16, LORA, above=0, maximum=10**5)
    """LoRA rank."""
    lora_alpha: int = field(32, LORA, above=0, maximum=10**6)
    """LoRA scale; the update is multiplied by alpha / rank."""
    lora_target_modules: tuple[str, ...] = field(("all-linear",), LORA)
    """Modules that get an adapter, by name; all-linear means every linear layer but the head."""
    load_in_4bit: bool = field(False, LORA)
    """Hold the frozen weights under the adapter in 4 bits (QLoRA; CUDA; pip install bitsandbytes)."""
    merge_adapter: bool = field(False, LORA)
    """Also write model-merged/, the adapter folded into the base model."""

    seed: int = field(42, BOOKKEEPING, minimum=0, maximum=2**32 - 1, basic=True)
    """Seed of everything random; same seed, same machine, same result."""
    logging_steps: int = field(1, BOOKKEEPING, above=0)
    """Record metrics every N optimizer steps."""
    save_steps: int = field(100, BOOKKEEPING, above=0)
    """Write a checkpoint every N optimizer steps of a stage; a killed run repeats at most that many."""
    report_to: tuple[str, ...] = field((), BOOKKEEPING, names="loggers")
    """Also log to tensorboard, trackio or wandb (must be installed); none or all as in transformers."""
    run_name: str | None = field(None, BOOKKEEPING)
    """Name of the run for report_to; not given, that of its folder."""
    project: str = field("demotune", BOOKKEEPING)
    """Project that the run belongs to, for report_to."""
    push_to_hub: str | None = field(None, BOOKKEEPING)
    """When the run is finished, upload model, card and report to this hub repository, as demotune push does."""
    hub_private_repo: bool = field(False, BOOKKEEPING)
    """Make that repository private where it is new."""
    profile: bool = field(False, BOOKKEEPING)
    """Print at the end how the time divides into kinds of work, and how near each came to the machine's peak speed."""

    def _check(self) -> None:
        require(bool(self.output), "output is missing", "name a folder for the run with --output")
        require(
            len(self.data_weights) in (0, len(self.data)),
            f"data_weights has {len(self.data_weights)} numbers for {len(self.data)} data sources",
            "give one weight for each --data",
        )
        require(
            self.template is None or self.template.count("{prompt}") == 1,
            f"template must contain {{prompt}} once, got {shown(self.template)}",
            r"write for example --template $'### Instruction: {prompt}\n\n### Response: '",
        )
        require(
            self.use_peft or not self.merge_adapter,
            "merge_adapter needs use_peft",
            "add --use-peft or drop --merge-adapter",
        )
        require(
            self.use_peft or not self.load_in_4bit,
            "load_in_4bit needs use_peft: weights of 4 bits cannot be trained",
            "add --use-peft or drop --load-in-4bit",
        )
        require(
            not (self.load_in_4bit and self.merge_adapter),
            "merge_adapter would fold the adapter into weights of 4 bits and lose most of it",
            "drop --merge-adapter, and merge into the model itself with peft",
        )


def require(holds: bool, problem: str, fix: str) -> None:
    """Raise DemotuneError unless it holds."""
    if not holds:
        raise DemotuneError(f"{problem}; {fix}")
