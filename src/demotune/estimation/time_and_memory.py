"""What work costs: floating-point operations, exactly; seconds and bytes of memory, by a machine's ceilings.

Time is matrix products at a share of their ceiling, plus memory traffic of everything between them, plus what each call
of a layer costs whatever its size. A step of decoding reads every weight, and multiplies each row with it.
"""

from dataclasses import dataclass

from demotune.common.memory import GIB
from demotune.common.profiling import Kind
from demotune.config.methods import AnyConfig
from demotune.config.sampler import engine_of
from demotune.estimation.machines import Machine, MachineKind
from demotune.estimation.model_shape import ModelShape
from demotune.training.work import Draw, PhaseWork, Tokens, Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """What a kind of device makes of its ceilings. Shares are of the ceiling; traffic is in passes over activations."""

    products: float
    """Matrix products of training and scoring."""
    decoding: float
    """Matrix products with one token of each row of a batch."""
    reading: float
    """Share of the memory ceiling at which a token's step reads weights and cache."""
    forward_traffic: float = 1.5
    backward_traffic: float = 2.5
    update_traffic: float = 28.0
    """Bytes per trained number of an AdamW step: weight, gradient, two moments read; all but the gradient written."""
    layer_seconds: float
    """Of one call of one layer: launching its kernels."""
    decoding_seconds: float
    """The same for one step of decoding, whose many small kernels take more than their arithmetic."""
    load_seconds: float
    """Per GiB of weights read into memory."""
    save_seconds: float
    """Per GiB of weights written and hashed."""
    memory_base: float
    """Bytes of a process that has loaded nothing yet."""
    memory_slack: float = 1.1
    """What allocators hold beyond what is asked of them, as a factor."""


EFFICIENCIES: dict[MachineKind, Efficiency] = {
    # Set with benchmarks/calibrate.py on SmolLM2-135M in float32, cores of an AMD EPYC without bfloat16 instructions;
    # decoding by steps of 16 and of 64 rows.
    "cpu": Efficiency(
        products=0.76,
        decoding=0.55,
        reading=0.8,
        layer_seconds=2.5e-4,
        decoding_seconds=1.7e-3,
        load_seconds=1.5,
        save_seconds=2.0,
        memory_base=0.7 * GIB,
    ),
    # Not measured by us. Products: 40 to 50% of peak is what well-kept trainers report for bf16 on A100 and H100
    # (PaLM, arXiv 2204.02311, table 3: 46%). Reading: gpt-fast decodes Llama-7B at 72% of an A100's bandwidth.
    "cuda": Efficiency(
        products=0.55,
        decoding=0.4,
        reading=0.7,
        layer_seconds=1.0e-4,
        decoding_seconds=1.0e-4,
        load_seconds=1.0,
        save_seconds=3.0,
        memory_base=0.0,
    ),
}

OPTIMIZER_BYTES = {
    "adamw": 8,
    "rmsprop": 4,
    "adagrad": 4,
    "adafactor": 0,
    "sgd": 0,
    "lion": 4,
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
}
"""State per trained number held in float32, by the beginning of the optimizer's name; the longest that fits counts, 8
when none does. adafactor keeps a number per row and column, too few to count."""
TOKEN_CHOICE_BYTES = 30
"""Memory traffic of choosing a token, per word of the vocabulary: softmax and cumulative sum."""
LOGIT_BYTES = 16
"""Kept for the backward pass per word of the vocabulary and response token: logits, log-softmax, gradients."""
ENGINE_SLOTS = 256
"""Rows that an engine draws at a time: vLLM's usual --max-num-seqs."""
SCORED_TOGETHER = 1000
"""Tokens of one forward pass of scoring, for counting how often layers are called."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one model on one machine under one config."""

    config: AnyConfig
    shape: ModelShape
    machine: Machine
    processes: int = 1
    sharded: bool = False
    """Whether gradients and optimizer are spread over the processes."""

    # Operations

    def flops(self, work: PhaseWork) -> dict[Kind, float]:
        """Of the kinds of work that consist of matrix products."""
        drawn = sum(self.forward_flops(draw.prefill) + self.forward_flops(draw.decoding) for draw in work.draws)
        trained = work.training.tokens if work.training else Tokens()
        return {
            "sampling": drawn,
            "scoring": self.forward_flops(work.scored),
            "forward": self.forward_flops(trained),
            "backward": self.backward_flops(trained),
        }

    def forward_flops(self, tokens: Tokens) -> float:
        """2 per number and token; the head at its positions; attention 4 per layer, query unit and attended token."""
        shape = self.shape
        return (
            2 * (shape.body + shape.adapter) * tokens.computed
            + 2 * shape.head * tokens.positions
            + 4 * shape.layers * shape.queries * tokens.attended
        )

    def backward_flops(self, tokens: Tokens) -> float:
        """Twice the forward pass: gradients of inputs and of weights. LoRA spares those of weights that stay."""
        frozen = 2 * (self.shape.body * tokens.computed + self.shape.head * tokens.positions)
        return 2 * self.forward_flops(tokens) - (frozen if self.shape.adapter else 0.0)

    # Time

    def seconds(self, work: PhaseWork) -> dict[Kind, float]:
        """Of each kind of work in a phase. Processes share all but optimizer steps and files."""
        efficiency, share, training = self._efficiency, 1 / self.processes, work.training
        weights = self.shape.parameters * self._weight_bytes / GIB
        saved = self.shape.adapter * 4 / GIB if self.shape.adapter else weights
        loads = work.loads + (0 if engine_of(self.config) is None else len(work.draws))  # an engine loads, too
        return {
            "sampling": share * sum(map(self._drawing, work.draws)),
            "scoring": share * self._forward(work.scored, work.scored.computed / SCORED_TOGETHER),
            "forward": share * self._forward(training.tokens, training.microbatches) if training else 0.0,
            "backward": share * self._backward(training) if training else 0.0,
            "optimizer": training.steps * self.update_bytes / self.machine.bandwidth if training else 0.0,
            "files": loads * weights * efficiency.load_seconds + work.saves * saved * efficiency.save_seconds,
        }

    @property
    def update_bytes(self) -> float:
        """Memory traffic of one optimizer step."""
        return self.shape.trained * self._efficiency.update_traffic

    @property
    def _efficiency(self) -> Efficiency:
        return EFFICIENCIES[self.machine.kind]

    @property
    def _product_bytes(self) -> int:
        """Of one number in matrix products."""
        return 2 if self.machine.precision == "bfloat16" else 4

    @property
    def _weight_bytes(self) -> float:
        if self.config.load_in_4bit:
            return 0.5
        return 2 if self.config.dtype == "bfloat16" else 4

    @property
    def _cast_bytes(self) -> int:
        """Autocast keeps a bfloat16 copy of float32 weights while it computes."""
        return 2 if self._product_bytes < self._weight_bytes else 0

    @property
    def _casting(self) -> float:
        """Memory traffic of making that copy."""
        return self.shape.parameters * (self._weight_bytes + self._cast_bytes) if self._cast_bytes else 0.0

    def _forward(self, tokens: Tokens, calls: float) -> float:
        efficiency = self._efficiency
        traffic = self._activations(tokens) * efficiency.forward_traffic + calls * self._casting
        return (
            self.forward_flops(tokens) / (self.machine.products * efficiency.products)
            + traffic / self.machine.bandwidth
            + calls * self.shape.layers * efficiency.layer_seconds
        )

    def _backward(self, training: Training) -> float:
        efficiency = self._efficiency
        again = self._forward(training.tokens, training.microbatches) if self.config.activation_checkpointing else 0.0
        return (
            self.backward_flops(training.tokens) / (self.machine.products * efficiency.products)
            + self._activations(training.tokens) * efficiency.backward_traffic / self.machine.bandwidth
            + 2 * training.microbatches * self.shape.layers * efficiency.layer_seconds
            + again
        )

    def _drawing(self, draw: Draw) -> float:
        """An engine draws more rows at a time, and replays recorded steps instead of calling layer by layer."""
        efficiency, shape, slots, calls = self._efficiency, self.shape, float(draw.slots), 1
        if engine_of(self.config) is not None:
            slots, calls = min(max(draw.rows, 1.0), ENGINE_SLOTS), 0
        steps = draw.rows * draw.response / slots
        read = (shape.body + shape.head) * self._product_bytes + slots * self._cache_bytes * (
            draw.prompt + draw.response / 2
        )
        reading = steps * read / (self.machine.bandwidth * efficiency.reading)
        multiplying = self.forward_flops(draw.decoding) / (self.machine.products * efficiency.decoding)
        choosing = draw.decoding.positions * shape.vocabulary * TOKEN_CHOICE_BYTES / self.machine.bandwidth
        prefill = self._forward(draw.prefill, draw.prefill.computed / SCORED_TOGETHER)
        return prefill + reading + multiplying + choosing + calls * steps * shape.layers * efficiency.decoding_seconds

    # Memory

    def memory(self, work: PhaseWork) -> float:
        """Bytes at the phase's highest point: models, and the greatest of what its parts need beside them."""
        shape, efficiency, shards = self.shape, self._efficiency, self.processes if self.sharded else 1
        models = work.models * shape.parameters * self._weight_bytes + 4 * shape.adapter
        parts = [0.0, *map(self._drawing_memory, work.draws)]
        if work.training:
            parts.append(self._training_memory(work.training.largest))
        optimizer = self.optimizer_bytes / shards if work.training else 0.0
        cast = shape.parameters * self._cast_bytes
        return efficiency.memory_base + efficiency.memory_slack * (models + cast + optimizer + max(parts))

    @property
    def optimizer_bytes(self) -> float:
        """Gradients and the optimizer's state."""
        fitting = [name for name in OPTIMIZER_BYTES if self.config.optim.startswith(name)]
        state = OPTIMIZER_BYTES[max(fitting, key=len)] if fitting else 8
        number = 4 if self.shape.adapter else self._weight_bytes  # an adapter is kept in float32
        return self.shape.trained * (number + state * number / 4)

    @property
    def _cache_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.shape.layers * self.shape.keys * self._product_bytes

    def _drawing_memory(self, draw: Draw) -> float:
        """Cache, choosing tokens; in float32 also weights once more, for LoRA merged, on CPU laid out for decoding.

        Where an engine draws, none of this is in this process.
        """
        if engine_of(self.config) is not None:
            return 0.0
        tokens, shape = draw.slots * (draw.prompt + draw.response), self.shape
        copies = 0
        if self._product_bytes == self._weight_bytes == 4:
            merged = shape.body if shape.adapter else 0
            copies = 4 * (merged + (shape.body + shape.head if self.machine.kind == "cpu" else 0))
        return tokens * self._cache_bytes + draw.slots * shape.vocabulary * TOKEN_CHOICE_BYTES + copies

    def _training_memory(self, tokens: Tokens) -> float:
        if not self.config.activation_checkpointing:
            return self._activations(tokens)
        layer, logits = self._layer_activations(tokens), self._logits(tokens)
        return self.shape.layers * tokens.computed * self.shape.width * 4 + layer + logits

    def _activations(self, tokens: Tokens) -> float:
        """Bytes kept for the backward pass."""
        return self.shape.layers * self._layer_activations(tokens) + self._logits(tokens)

    def _layer_activations(self, tokens: Tokens) -> float:
        """Of norms and the residual stream in float32; of projections, feed-forward and plain attention's scores."""
        shape = self.shape
        by_token = 4 * 5 * shape.width + self._product_bytes * (4 * shape.width + 2 * shape.queries + 4 * shape.inner)
        plain = self.machine.kind == "cpu" and self.config.attn_implementation != "sdpa"
        scores = shape.heads * tokens.attended * (4 + self._product_bytes) if plain else 0.0
        return tokens.computed * by_token + scores

    def _logits(self, tokens: Tokens) -> float:
        return tokens.positions * self.shape.vocabulary * LOGIT_BYTES
