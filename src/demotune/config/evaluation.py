"""What `demotune evaluate` measures. The docstring under a field is its help text on the command line."""

from dataclasses import dataclass
from typing import Literal

from demotune.common.errors import DemotuneError
from demotune.config.field import BOOKKEEPING, INPUTS, JUDGES, OPTIMISATION, READING, SAMPLING, TASKS, field
from demotune.config.sampler import SamplerFields


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(SamplerFields):
    """Measure a model, and how it differs from others, on rows that it was not trained on.

    Held-out likelihood, answers and who wins, preferences, benchmark tasks; every number with its 95% interval.
    """

    model: str = field("", INPUTS, required=True, names="model")
    """The model: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    baseline: tuple[str, ...] = field((), INPUTS, names="model", basic=True)
    """A model to compare it with, on the same prompts; repeat for several."""
    data: tuple[str, ...] = field((), INPUTS, names="rows", basic=True)
    """Test rows: demonstrations or preference rows, in any format that training reads; repeat for several."""
    output: str = field("", INPUTS, required=True)
    """Folder for the results. What an earlier, interrupted command measured there is used again."""

    columns: str | None = field(None, READING, names="columns", basic=True)
    """Read these columns: prompt=question,response=answer or messages=dialogue, for example; besides the text also
    system, history, tools, documents and reasoning. Detected when not given."""
    max_rows: int | None = field(None, READING, minimum=1)
    """Use only the first N usable rows."""
    max_length: int | None = field(None, READING, minimum=1, maximum=10**7)
    """Leave out rows with more tokens of prompt and response. Not given: what the models can read."""
    template: str | None = field(None, READING)
    """Prompt template with {prompt}, for all models. Not given: that of the model's run, else its chat template."""
    trained_on: Literal["leave-out", "keep"] = field("leave-out", READING)
    """Leave out rows whose prompt a model was trained on, or keep them; they are counted and named either way."""

    reward: tuple[str, ...] = field((), JUDGES, names="model", basic=True)
    """A reward as judge: a run of rft, irft, spin or sft, or a model with one label (folder or hub id); repeatable."""
    judge: tuple[str, ...] = field((), JUDGES, basic=True)
    """A judge of your own, MODULE:FUNCTION: score(prompt, response) or better(prompt, first, second); repeatable."""
    judge_url: str | None = field(None, JUDGES, basic=True)
    """Address up to /v1 of an OpenAI-compatible server whose model judges; both orders are asked."""
    judge_model: str | None = field(None, JUDGES, basic=True)
    """Name of the judge model on that server. The key is read from OPENAI_API_KEY."""

    answers: bool = field(True, SAMPLING)
    """Let the models answer the prompts: length, variety, and win rates where there is a judge and a baseline."""
    max_new_tokens: int = field(256, SAMPLING, minimum=1, maximum=10**7, basic=True)
    """Longest answer, in tokens."""
    temperature: float = field(1.0, SAMPLING, minimum=0, maximum=10**3, basic=True)
    """Sampling temperature of the answers; 0 is greedy."""
    seed: int = field(42, BOOKKEEPING, minimum=0, maximum=2**32 - 1, basic=True)
    """Seed of the answers."""
    batch_size: int = field(16, OPTIMISATION, minimum=1, maximum=10**6)
    """Compute log-probabilities of this many rows together on one device."""
    sample_batch_size: int = field(32, SAMPLING, minimum=1, maximum=10**6)
    """Answer this many prompts together on one device."""
    dtype: Literal["float32", "bfloat16"] = field("float32", OPTIMISATION)
    """Type in which weights are held."""
    bf16: bool | None = field(None, OPTIMISATION)
    """Compute in bfloat16 autocast. Not given: where the hardware has it."""

    tasks: tuple[str, ...] = field((), TASKS, basic=True)
    """Benchmark tasks by the names of lm-eval, or open-llm-leaderboard-v1; repeat for several."""
    task_data: tuple[str, ...] = field((), TASKS)
    """Folder with a subfolder of rows per task, where the hub cannot be reached; repeat for several."""
    limit: int | None = field(None, TASKS, minimum=1)
    """Use only the first N items of each task."""
    few_shots: int | None = field(None, TASKS, minimum=0, maximum=10**4)
    """Examples in the prompt, for all tasks. Not given: the preset's number, else the task's own."""

    def _check(self) -> None:
        super()._check()
        if not self.model:
            raise DemotuneError("model is missing; name it with --model")
        if not self.output:
            raise DemotuneError("output is missing; name a folder for the results with --output")
        if not self.data and not self.tasks:
            raise DemotuneError("there is nothing to measure on; give --data, or --tasks")
        if (self.judge_url is None) != (self.judge_model is None):
            missing = "--judge-model" if self.judge_model is None else "--judge-url"
            raise DemotuneError(f"{missing} is missing: a judge needs an address and the name of a model there")
        self._check_judges()

    def _check_judges(self) -> None:
        """Refuse a judge that would have nothing to judge."""
        for flag, given in (("reward", self.reward), ("judge", self.judge)):
            if len(set(given)) < len(given):
                twice = next(name for name in given if given.count(name) > 1)
                raise DemotuneError(f"--{flag} {twice} is given twice; give it once")
        if self.reward and not self.data:
            raise DemotuneError("--reward judges responses to the prompts of test rows; give --data")
        if self.judge or self.judge_url:
            flag = "--judge" if self.judge else "--judge-url"
            if not (self.data and self.baseline):
                raise DemotuneError(f"{flag} compares the answers of two models; give --data and a --baseline")
            if not self.answers:
                raise DemotuneError(f"{flag} compares answers, and --no-answers was given; leave one of them out")
