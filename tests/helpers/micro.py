"""For tests of the learning loop: models of a few thousand numbers, records of random token ids, one training phase.

Ids 0 and 1 are padding and the end token; every other id is one character of text.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from transformers.modeling_outputs import CausalLMOutput

from demotune.config.methods import IRFTConfig
from demotune.models.packing import Batch, aligned, pack
from demotune.models.reference_logps import pair_logps
from demotune.records import Pair, RenderedDemonstration, Response, ScoredPair
from demotune.training.arguments import training_arguments
from demotune.training.carried_optimizer import Carry
from demotune.training.first_value import ExpectedFirstValue
from demotune.training.fit import take_steps
from demotune.training.objectives import Objective
from demotune.training.trainer import Fit, PhaseTrainer

PAD, END = 0, 1
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
VOCABULARY = 2 + len(LETTERS)

Architecture = Literal["llama", "neox", "gpt2"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "neox", "gpt2")


def letter_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Text of the first LETTERS to one id per character; nothing is added."""
    ids = {"<pad>": PAD, "</s>": END} | {letter: 2 + n for n, letter in enumerate(LETTERS[: vocabulary - 2])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def tiny_lm(
    architecture: Architecture = "llama",
    *,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    attention: str = "eager",
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    pad_token_id: int | None = None,
    tied: bool = False,
) -> PreTrainedModel:
    """Two random layers of 16 units, with weights large enough that next-token distributions are far from uniform."""
    shared: dict[str, Any] = {
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": pad_token_id,
        "initializer_range": 0.4,
        "attn_implementation": attention,
        "tie_word_embeddings": tied,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "gpt2":
            sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
            dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
            model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(**shared, **sizes, **dropouts))
        else:
            sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            more = {"max_position_embeddings": 64, "attention_dropout": dropout}
            if architecture == "llama":
                model = LlamaForCausalLM(LlamaConfig(**shared, **sizes, **more, num_key_value_heads=1))
            else:
                model = GPTNeoXForCausalLM(GPTNeoXConfig(**shared, **sizes, **more))
    return model.to(dtype).eval()


class Bigram(nn.Module):
    """A policy whose next-token probabilities are a table of the last token; it takes `input_ids` and nothing else."""

    def __init__(self, probabilities: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table[input_ids])


def random_ids(rng: random.Random, low: int, high: int, vocabulary: int = VOCABULARY) -> tuple[int, ...]:
    """Between `low` and `high` ids that are neither padding nor the end token."""
    return tuple(rng.randrange(2, vocabulary) for _ in range(rng.randint(low, high)))


def random_demonstrations(seed: int, count: int) -> list[RenderedDemonstration]:
    """Uneven lengths; all end with END."""
    rng = random.Random(seed)
    return [
        RenderedDemonstration(random_ids(rng, 1, 7), Response((*random_ids(rng, 0, 7), END), True), f"row-{number}")
        for number in range(count)
    ]


def random_pairs(seed: int, count: int, *, all_finished: bool = False) -> list[Pair]:
    """Uneven lengths; about a third of the samples is cut off unless `all_finished`."""
    rng = random.Random(f"samples of {seed}")
    pairs = []
    for row in random_demonstrations(seed, count):
        finished = all_finished or rng.random() < 2 / 3
        ids = (*random_ids(rng, 0, 7), END) if finished else random_ids(rng, 8, 8)
        pairs.append(Pair(row.key, row.prompt_ids, row.demo, Response(ids, finished)))
    return pairs


def scored(reference: nn.Module, microbatches: Sequence[Sequence[Pair]], bf16: bool = False) -> list[list[ScoredPair]]:
    """The reference's log-probabilities on the micro-batches, by demotune's own scoring."""
    return [
        [
            ScoredPair(pair, demo, sample)
            for pair, (demo, sample) in zip(pairs, pair_logps(reference, pairs, bf16=bf16), strict=True)
        ]
        for pairs in microbatches
    ]


def train(
    model: PreTrainedModel,
    objective: Objective[Any],
    microbatches: Sequence[Sequence[Any]],
    folder: Path,
    *,
    expected_first: ExpectedFirstValue | None = None,
    carry: Carry | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> tuple[PhaseTrainer, list[dict[str, Any]]]:
    """Train `model` in place through `microbatches`, once, by plain SGD unless `settings` (config fields) say else."""
    plain = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0.0, "bf16": False}
    config = IRFTConfig(output=str(folder), **{**plain, **settings})
    steps = -(-len(microbatches) // config.gradient_accumulation_steps)
    given = Fit(
        model=model,
        objective=objective,
        microbatches=microbatches,
        steps=steps,
        title="test",
        expected_first=expected_first,
        carry=carry,
    )
    trainer = PhaseTrainer(
        given,
        args=training_arguments(config, folder / "checkpoints", steps, seed=0),
        tokenizer=letter_tokenizer(),
        callbacks=list(callbacks),
        budget=config.tokens_per_microbatch,
    )
    take_steps(trainer)
    return trainer, [dict(record) for record in trainer.state.log_history if "loss" in record]


def align(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Batch:
    """B rows with padding, as a model without layouts gets them."""
    return aligned(pack(prompts, responses))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Over all parameters, the largest absolute difference of two numbers."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the gradients by name."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_gradients_agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """1e-5 in every number, times the largest number of that parameter's gradient where that is above 1."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        error, size = float((ours[name] - expected).abs().max()), float(expected.abs().max())
        assert error <= 1e-5 * max(size, 1), f"{name}: {error:.1e} of {size:.1e}"
    assert max(float(gradient.abs().max()) for gradient in theirs.values()) > 1e-2
