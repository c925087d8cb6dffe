"""What the smaller commands take. A field without a default is a flag that must be given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demotune.common.errors import DemotuneError
from demotune.config.field import field
from demotune.config.values import Config


@dataclass(frozen=True, kw_only=True)
class RowReading(Config):
    """How rows are read and scored, for score, select and compare."""

    columns: str | None = field(None, names="columns")
    """Read these columns: prompt=question,response=answer, and rejected, system, tools, ... Detected when not given."""
    max_length: int | None = field(None, minimum=2, maximum=10**7)
    """Refuse rows of more tokens. Not given: what the model can read."""
    max_rows: int | None = field(None, minimum=1)
    """Use only the first N good rows."""
    batch_size: int = field(16, minimum=1, maximum=10**6)
    """Score this many responses together."""
    bf16: bool | None = field(None)
    """Compute in bfloat16. Not given: where the hardware has it; --no-bf16 resolves finer differences, slower."""


@dataclass(frozen=True, kw_only=True)
class RewardReading(RowReading):
    """Rows, and the reward that scores them."""

    reward: str = field(names="model")
    """A run folder of rft, irft, spin or sft, or a reward model with one label (folder or hub id)."""
    data: tuple[str, ...] = field(names="rows")
    """Rows: file, folder or hub id, in any format that training reads; repeat for several."""
    template: str | None = field(None)
    """Prompt template with {prompt} for the reward. Not given: its own."""
    dtype: Literal["float32", "bfloat16"] = field("float32")
    """Type in which weights are held."""


@dataclass(frozen=True, kw_only=True)
class PushConfig(Config):
    """Upload a finished run's model to the Hugging Face hub, with its card, its report and, of RFT, its reward."""

    run_folder: Path = field(argument=True)
    """A finished run's folder. The report shows prompts and answers of the data."""
    name: str = field(argument=True)
    """The hub repository: USER/MODEL. It is made where it is missing."""
    private: bool = field(False)
    """Make it private where it is new."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(RewardReading):
    """Score each row with a reward; for preference rows, show how often the reward agrees with them."""

    output: Path | None = field(None)
    """Write each row and its score here, as .jsonl or .jsonl.gz."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig(RewardReading):
    """Keep the best demonstrations by a reward: one learned here, or any other model with one label."""

    output: Path = field()
    """Write the rows that are kept here, as .jsonl or .jsonl.gz, ready to train on."""
    top: int | None = field(None, minimum=1)
    """Keep the N rows with the highest scores."""
    threshold: float | None = field(None)
    """Keep all rows with this score or more."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(RewardReading):
    """Show what a reward looks at: its weights of named features, its correlation with them and with length, and the
    responses with the highest and the lowest scores; of preference rows both responses count."""

    reward: str = field(argument=True, names="model")
    """A run folder of rft, irft, spin or sft, or a reward model with one label (folder or hub id)."""
    output: Path | None = field(None)
    """Write everything here too, as .json."""


@dataclass(frozen=True, kw_only=True)
class AdviseConfig(Config):
    """Before a long run: measure in minutes what decides which method is worth it, and recommend one.

    SFT longer, best of n, IRFT, RFT, a lower temperature, or nothing, with the reason and the command to run next.
    """

    model: str = field(names="model")
    """The model to start from: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    data: tuple[str, ...] = field(names="rows")
    """Demonstrations, in any format that training reads; repeat for several. They are divided as a run divides them."""
    prompts: tuple[str, ...] = field((), names="prompts", basic=True)
    """Files of further prompts without demonstrations (.txt: one a line; else data: prompt or messages); repeatable."""
    output: Path | None = field(None, basic=True)
    """Folder for advice.json and the samples; what an interrupted command drew there is used again."""
    samples_per_prompt: int = field(4, minimum=2, maximum=1000, basic=True)
    """Samples at temperature 1 for each prompt; the n of best of n."""
    max_train_rows: int = field(256, minimum=1)
    """Measure at most this many training rows, evenly spread over the data."""
    max_prompts: int = field(128, minimum=1)
    """Measure at most this many prompts without demonstrations."""
    eval_data: tuple[str, ...] = field((), names="rows")
    """Held-out demonstrations. Without them, `eval_share` of the data is held out."""
    eval_share: float = field(0.1, minimum=0, maximum=0.5)
    """Share of the data held out when no eval_data is given (0 to 0.5), chosen by a hash of the prompt."""
    max_eval_rows: int = field(200, minimum=1)
    """Hold out and measure at most this many rows."""
    max_rows: int | None = field(None, minimum=1)
    """Use only the first N good rows of the data (all when not given)."""
    columns: str | None = field(None, names="columns", basic=True)
    """Read these columns: prompt=question,response=answer, and system, history, tools, ... Detected when not given."""
    every_turn: bool = field(False)
    """Make one demonstration of each assistant turn in a conversation. Otherwise only the last turn is one."""
    template: str | None = field(None)
    """Prompt template with {prompt}, used instead of the tokenizer's chat template."""
    max_length: int = field(1024, minimum=2, maximum=10**7, basic=True)
    """Longest prompt plus response, in tokens."""
    overlong: Literal["quarantine", "truncate-prompt", "truncate-response"] = field("quarantine")
    """Leave longer rows out (quarantine), or cut them."""
    max_bad_share: float = field(0.05, minimum=0, maximum=1)
    """Stop when more than this share of rows is bad (0 to 1)."""
    max_new_tokens: int | None = field(None, minimum=1, maximum=10**7)
    """Longest sample, in tokens. Not given: as long as the longest demonstration."""
    sample_batch_size: int = field(64, minimum=1, maximum=10**6)
    """Draw at most this many responses at a time; fewer where memory is short."""
    batch_size: int = field(16, minimum=1, maximum=10**6)
    """Compute log-probabilities of this many responses together."""
    dtype: Literal["float32", "bfloat16"] = field("float32")
    """Type in which weights are held."""
    bf16: bool | None = field(None)
    """Compute in bfloat16 autocast. Not given: where the hardware has it."""
    seed: int = field(42, minimum=0, maximum=2**32 - 1, basic=True)
    """Seed; same seed, same advice."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(RowReading):
    """Compare methods and settings: quality with intervals, corrected p-values, cost; seeds are grouped."""

    runs: tuple[Path, ...] = field(argument=True, names="run")
    """Finished runs; those that differ in their seed are one setting."""
    data: tuple[str, ...] = field((), names="rows")
    """Test rows to compare on. Not given: the rows that all runs held out."""
    output: Path | None = field(None)
    """Folder for comparison.json and what was measured; needed with --data."""
    control: Literal["sft"] | None = field(None)
    """Train SFT from each run's start model with its steps and tokens, and compare with it."""

    def _check(self) -> None:
        if self.data and self.output is None:
            raise DemotuneError("--data needs --output: what is measured there is kept and used again")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Config):
    """Run many trials, methods by settings by seeds, and compare them. Given again, it goes on where it was stopped."""

    sweep_file: Path = field(argument=True)
    """YAML file: the fields that all trials share, and grids or a list of trials."""
    output: Path = field()
    """Folder for the trials, each an ordinary run folder, their logs, and the comparison."""
    retries: int = field(1, minimum=0, maximum=100)
    """How often a trial that fails is run again; it goes on from its last checkpoint."""
    ray: str | None = field(None)
    """Run trials side by side on the Ray cluster of this address; auto finds one, local starts one on this machine."""
    gpus_per_trial: int | None = field(None, minimum=0, maximum=1024)
    """GPUs of a trial, for --ray and --print. Not given: 1, with --ray where the cluster has any."""
    cpus_per_trial: int = field(1, minimum=1, maximum=4096)
    """CPU cores of a trial, for --ray and --print."""
    print: Literal["shell", "slurm", "skypilot"] | None = field(None)
    """Write the commands for a shell, as Slurm arrays or as a SkyPilot task, and train nothing."""
    estimate: bool = field(False)
    """Say what the trials that are not finished would cost on this machine, and train nothing."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Write one page about one run or several: works offline, with every number's evidence and a browser of samples."""

    runs: tuple[Path, ...] = field(argument=True, names="run")
    """Run folders, finished or not."""
    evaluation: tuple[Path, ...] = field(())
    """Folder that demotune evaluate wrote; repeat for several."""
    comparison: Path | None = field(None)
    """Folder that demotune compare --output wrote. Not given: several runs are compared here."""
    output: Path | None = field(None)
    """The HTML file. Not given: report.html in the run folder; several runs need it."""


@dataclass(frozen=True, kw_only=True)
class ResumeConfig(Config):
    """Continue an interrupted run exactly where it stopped."""

    run_folder: Path = field(argument=True)
    """Folder of an interrupted run."""
    sampler: str | None = field(None)
    """Other addresses of the servers that draw, or vllm. Not given: as the run began."""
    vllm_python: str | None = field(None)
    """For --sampler vllm: the Python of the environment that has vllm. Not given: as the run began."""


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig(Config):
    """SFT of SmolLM2-135M on the demonstrations that come with demotune, a reward, and the best answers by it."""

    output: Path = field(Path("runs/quickstart"))
    """Folder for the run, the reward and the answers."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Show what is installed, which devices there are, and what a run would use."""
