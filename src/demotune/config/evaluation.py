"""What `demotune evaluate` is asked to do. The docstring under a field is its help text on the command line."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from demotune.common.errors import DemotuneError
from demotune.config.limits import check_numbers


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Measure a model, and how it differs from others, on rows that it was not trained on.

    Held-out likelihood, answers and who wins, preferences, benchmark tasks; every number with its 95% interval.
    """

    method: ClassVar[str] = "evaluate"
    required: ClassVar[frozenset[str]] = frozenset({"model", "output"})

    model: str = ""
    """The model: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    baseline: tuple[str, ...] = ()
    """A model to compare it with, on the same prompts; repeat for several."""
    data: tuple[str, ...] = ()
    """Test rows: demonstrations or preference rows, in any format that training reads; repeat for several."""
    output: str = ""
    """Folder for the results. What an earlier, interrupted command measured there is used again."""

    columns: str | None = None
    """Which columns to read, for example prompt=question,response=answer or messages=dialogue; beside the text also
    system, history, tools, documents and reasoning. Detected when not given."""
    max_rows: int | None = None
    """Use only the first N usable rows."""
    max_length: int | None = None
    """Leave out rows with more tokens of prompt and response. Not given: what the models can read."""
    template: str | None = None
    """Prompt template with {prompt}, for all models. Not given: that of the model's run, else its chat template."""
    trained_on: Literal["leave-out", "keep"] = "leave-out"
    """What happens to rows whose prompt a model was trained on. keep: they are counted and named, and stay in."""

    reward: tuple[str, ...] = ()
    """A judge: a run of rft, irft or spin, or a reward model with one label (folder or hub id); repeat for several."""
    judge: tuple[str, ...] = ()
    """A judge of your own, MODULE:FUNCTION: score(prompt, response) or better(prompt, first, second); repeatable."""
    judge_url: str | None = None
    """Address up to /v1 of an OpenAI-compatible server whose model judges; both orders are asked."""
    judge_model: str | None = None
    """Name of the judge model on that server. The key is read from OPENAI_API_KEY."""

    answers: bool = True
    """Let the models answer the prompts: length, variety, and win rates where there is a judge and a baseline."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """Sampling temperature of the answers; 0 is greedy."""
    seed: int = 42
    """Seed of the answers."""
    batch_size: int = 16
    """Rows scored together on one device."""
    sample_batch_size: int = 32
    """Prompts answered together on one device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which weights are held."""
    bf16: bool | None = None
    """Compute in bfloat16 autocast. When not given: yes where the hardware has it."""

    tasks: tuple[str, ...] = ()
    """Benchmark tasks by the names of lm-eval, or open-llm-leaderboard-v1; repeat for several."""
    task_data: tuple[str, ...] = ()
    """Folder with a subfolder of rows per task, where no hub is at hand; repeat for several."""
    limit: int | None = None
    """Use only the first N items of each task."""
    few_shots: int | None = None
    """Examples in the prompt, for all tasks. Not given: the preset's number, else the task's own."""

    def __post_init__(self) -> None:
        check_numbers(vars(self))
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
        for name in ("max_new_tokens", "batch_size", "sample_batch_size", "max_rows", "max_length", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise DemotuneError(f"{name} must be at least 1, got {value}; set it with --{flag}")
        if self.temperature < 0:
            raise DemotuneError(f"temperature must be >= 0, got {self.temperature}; 1 samples the policy as it is")

    def _check_judges(self) -> None:
        """Refuse a judge that nobody would hear of."""
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
