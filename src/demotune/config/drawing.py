"""What commands take that draw responses: sample, chat, distill."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demotune.common.errors import DemotuneError
from demotune.config.field import field
from demotune.config.methods import SFTConfig
from demotune.config.sampler import SamplerFields
from demotune.config.values import Config


@dataclass(frozen=True, kw_only=True)
class DrawingOptions(Config):
    """How responses to prompts are drawn, outside of a run."""

    max_new_tokens: int = field(256, minimum=1, maximum=10**7)
    """Longest response, in tokens."""
    temperature: float = field(1.0, minimum=0, maximum=10**3)
    """Sampling temperature: 1 samples from the model's own distribution, 0 is greedy."""
    top_p: float = field(1.0, above=0, maximum=1)
    """Sample from the smallest set of tokens with this probability; 1 is off."""
    top_k: int = field(0, minimum=0, maximum=10**7)
    """Sample from the k likeliest tokens; 0 is off."""
    template: str | None = field(None)
    """Prompt template with {prompt}. Not given: that of the model's run, else its chat template."""
    seed: int = field(42, minimum=0, maximum=2**32 - 1)
    """Seed; same seed, same responses."""
    batch_size: int = field(32, minimum=1, maximum=10**6)
    """Sample this many responses together."""
    dtype: Literal["float32", "bfloat16"] = field("float32")
    """Type in which weights are held."""
    bf16: bool | None = field(None)
    """Compute in bfloat16. Not given: where the hardware has it."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(SamplerFields, DrawingOptions):
    """How and where responses to prompts are drawn, outside of a run."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(GenerationOptions):
    """Sample responses to prompts, rendered and sampled as in training. With a reward, keep the best of several."""

    model: str = field(names="model")
    """The model: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    prompt: tuple[str, ...] = field(())
    """A prompt; repeat for several."""
    prompts: Path | None = field(None, names="prompts")
    """File of prompts: .txt with one a line, or data with prompt or messages."""
    output: Path | None = field(None)
    """Write JSONL here instead of to the screen. The same command again goes on where it was interrupted."""
    best_of: int | None = field(None, minimum=1, maximum=10**6)
    """Draw N responses to each prompt, keep the one that --reward likes best."""
    reward: str | None = field(None, names="model")
    """For --best-of: a run folder of rft, irft, spin or sft, or a reward model with one label (folder or hub id)."""
    reward_template: str | None = field(None)
    """Prompt template with {prompt} for the reward. Not given: its own."""

    def _check(self) -> None:
        super()._check()
        if (self.best_of is None) != (self.reward is None):
            given, missing = ("--best-of", "--reward R") if self.reward is None else ("--reward", "--best-of N")
            raise DemotuneError(f"{given} needs {missing}: N responses are drawn, the reward chooses one")
        for text in self.prompt:
            try:
                text.encode()
            except UnicodeEncodeError as error:  # bytes of the command line that its encoding does not know
                raise DemotuneError(f"--prompt {text!r} is not UTF-8; put it into a file and give --prompts") from error
        if not self.prompt and self.prompts is None:
            raise DemotuneError("there is no prompt; give --prompt TEXT or --prompts FILE")


@dataclass(frozen=True, kw_only=True)
class ChatConfig(DrawingOptions):
    """Talk with a model, or with two side by side; each answer with its reward, each exchange saved as a row."""

    model: str = field(argument=True, names="model")
    """The model: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    beside: str | None = field(None, names="model")
    """A second model that answers, too; you choose with which answer the conversation goes on."""
    system: str | None = field(None)
    """A system message to begin with."""
    reward: str | None = field(None, names="model")
    """Show this reward of each answer: a run folder or a reward model with one label (folder or hub id)."""
    output: Path | None = field(None)
    """Append each exchange here, as .jsonl: prompt and completion; of two answers prompt, chosen and rejected."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(SFTConfig):
    """Draw N responses to each prompt, keep the best by a reward, and fine-tune the model on them (SFT)."""

    reward: str = field(names="model", basic=True)
    """A run folder of rft, irft, spin or sft, or a reward model with one label (folder or hub id)."""
    best_of: int = field(minimum=2, maximum=10**6, basic=True)
    """Draw N responses to each prompt, keep the one that --reward likes best."""
    prompts: tuple[str, ...] = field((), names="prompts", basic=True)
    """File of prompts: .txt with one a line, or data with prompt or messages; repeat for several."""
    data: tuple[str, ...] = field((), names="rows", basic=True)
    """Rows whose prompts are answered: file, folder or hub id; their own responses are not read. Repeat for several."""
    max_new_tokens: int = field(256, minimum=1, maximum=10**7, basic=True)
    """Longest response, in tokens."""
    temperature: float = field(1.0, above=0, maximum=10**3, basic=True)
    """Sampling temperature: 1 samples from the model's own distribution."""
    top_p: float = field(1.0, above=0, maximum=1)
    """Sample from the smallest set of tokens with this probability; 1 is off."""
    top_k: int = field(0, minimum=0, maximum=10**7)
    """Sample from the k likeliest tokens; 0 is off."""
    sample_batch_size: int = field(32, minimum=1, maximum=10**6)
    """Sample this many responses together."""
    reward_template: str | None = field(None)
    """Prompt template with {prompt} for the reward. Not given: its own."""

    def _check(self) -> None:
        super()._check()
        if not self.prompts and not self.data:
            raise DemotuneError("there is no prompt; give --prompts FILE, or --data with rows whose prompts are taken")
        if self.data_weights:
            raise DemotuneError("data_weights mix demonstrations, and here prompts are answered; drop --data-weights")
