"""The end of a run: the model published, metrics in one file, and a summary that a newcomer understands."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.common.files import link_or_copy, read_json, read_rows, write_record, write_rows
from demotune.common.json_records import as_json, from_file
from demotune.common.notebook import facts_table
from demotune.common.processes import main_process, this_device, wait_for_everyone
from demotune.common.profiling import Profile
from demotune.common.progress import minutes, say, show_table
from demotune.common.statistics import Interval
from demotune.estimation.forecast import Estimate, compare_with_facts, show_comparison
from demotune.models.model_folder import is_adapter
from demotune.models.policy import Policy, load_policy, merged, save_policy
from demotune.models.tokenizers import load_tokenizer
from demotune.report.gains import gain_of
from demotune.rewards.load import load_reward
from demotune.rewards.reward import Reward
from demotune.runs.file_names import MODEL, REWARD, stage_title
from demotune.runs.folder import RunFolder
from demotune.runs.gate import Verdict
from demotune.runs.run import load_run
from demotune.training.fit import metrics_of
from demotune.training.setup import Setup


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """Whether the run's model makes held-out demonstrations likelier than the start model does."""

    answer: Verdict | Literal["not known"]
    gain: Interval | None
    """In nats a response, with its 95% interval over prompts; None where the run held out no rows."""
    prompts: int

    def __str__(self) -> str:
        if self.gain is None:
            return f"{self.answer}: the run held out no rows"
        size = f"{self.gain.text()} (95% interval)" if self.gain.known else f"{self.gain.value:.2f}"
        return f"{self.answer}: gain {size} nats a response over the start model, on {self.prompts} prompts"


@dataclass(frozen=True, slots=True, repr=False)
class RunResult:
    """What a finished run leaves: where, and what was measured on held-out rows."""

    run_folder: Path
    model_folder: Path
    method: str
    start_nll_per_token: float | None
    """Held-out negative log-likelihood of the start model, nats per token; None without held-out rows."""
    reward_folder: Path | None
    """RFT's learned reward; None for methods whose reward is implicit."""
    best_stage: int
    """The stage whose model is the result: the last that the gate did not call worse; the last one with gate off."""
    stages: tuple[dict[str, Any], ...]
    """One record per stage: phases with seconds and memory, last training metrics, held-out check."""
    estimate: dict[str, Any] | None
    """Seconds by phase, tokens, peak memory, each [estimated, measured]; None for a run too small for an estimate."""
    profile: dict[str, float] | None
    """Seconds by kind of work, and in all, since the run was begun or resumed; None without --profile."""

    @property
    def verdict(self) -> RunVerdict:
        """The run's model against its start model on held-out rows, as the report's first sentence has it."""
        gain = gain_of(load_run(self.run_folder))
        if gain is None:
            return RunVerdict("not known", None, 0)
        return RunVerdict(gain.verdict, gain.per_response, gain.prompts)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the stage whose model is the result: training metrics where it ended, and held-out ones as `eval_...`.

        TRL's names, and `eval_nll_per_token`. Training metrics of RFT's reward model begin with `reward_model/`.
        """
        phases, check = (self.stages[self.best_stage][part] for part in ("phases", "check"))
        found = {f"reward_model/{name}": value for name, value in phases.get("reward", {}).get("end", {}).items()}
        found |= next(phases[name].get("end", {}) for name in reversed(phases) if MODEL in phases[name]["outputs"])
        if check:
            found["eval_nll_per_token"] = check["nll_per_token"]
        if reward := check.get("reward"):
            found |= {"eval_rewards/margins": reward["margin"], "eval_rewards/accuracies": reward["accuracy"]["value"]}
        if policy := check.get("policy"):
            found["eval_reward"] = policy["reward_after"]
        return found

    def __repr__(self) -> str:
        return f"RunResult({self.method}, {self.run_folder}, {self._stages}, {self._verdict})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        cells = {"run": str(self.run_folder), "model": str(self.model_folder), "stages": self._stages}
        cells |= {"verdict": self._verdict}
        cells |= {name: f"{value:.4g}" for name, value in self.metrics.items() if name.startswith("eval_")}
        return facts_table(f"demotune {self.method}", cells)

    @property
    def _stages(self) -> str:
        last = len(self.stages) - 1
        count = f"{last + 1} stage{'s' * (last > 0)}"
        return count if self.best_stage == last else f"{count}, {stage_title(self.best_stage)} is the result"

    @property
    def _verdict(self) -> str:
        try:
            return str(self.verdict)
        except DemotuneError:  # the folder has moved, or is damaged: still a result that can be shown
            return "not known: its folder cannot be read"

    def reward(self) -> Reward:
        """The reward that the run learned; of an SFT run the log-ratio of its policy to its start model."""
        return load_reward(self.run_folder)

    def load(self) -> tuple[Policy, PreTrainedTokenizerBase]:
        """The trained policy and its tokenizer, on the current device."""
        policy = load_policy(self.model_folder, dtype="float32", attn_implementation="sdpa", device=this_device())
        return policy, load_tokenizer(self.model_folder)


def read_result(folder: RunFolder) -> RunResult:
    """The result of a run that has finished."""
    kept = read_json(folder.summary)
    reward = folder.reward if kept.get("reward_folder") else None
    places = {"run_folder": folder.root, "model_folder": folder.model, "reward_folder": reward}  # it may have moved
    return from_file(RunResult, kept | places, folder.summary)


def publish_result(setup: Setup, estimate: Estimate | None = None, profile: Profile | None = None) -> RunResult:
    """Publish model/, metrics.jsonl and summary.json, with what was estimated beside what was measured."""
    begun = load_run(setup.folder.root)
    stages = tuple(
        {"phases": setup.folder.stage_state(one.number), "check": as_json(one.check)} for one in begun.stages
    )
    result = RunResult(
        run_folder=setup.folder.root,
        model_folder=setup.folder.model,
        method=setup.config.method,
        reward_folder=setup.folder.reward if setup.config.learned_reward == "explicit" else None,
        start_nll_per_token=begun.start_nll_per_token,
        best_stage=begun.best_so_far,
        stages=stages,
        estimate=None if estimate is None else compare_with_facts(estimate, [stage["phases"] for stage in stages]),
        profile=None if profile is None else profile.record(),
    )
    if main_process():
        best = setup.folder.stage(result.best_stage)
        link_or_copy(best / MODEL, setup.folder.model)
        if result.reward_folder is not None:
            link_or_copy(best / REWARD, result.reward_folder)
        if setup.config.merge_adapter:
            save_policy(merged(setup.load(best / MODEL)), setup.tokenizer, setup.folder.merged_model)
        write_rows(setup.folder.metrics, _all_metrics(setup, len(stages)))
        write_record(setup.folder.summary, as_json(result))  # from here on the run is finished
    wait_for_everyone()
    return result


def show_result(result: RunResult) -> None:
    """The summary on the screen."""
    if not main_process():
        return
    rows = [] if result.start_nll_per_token is None else [["start model", f"{-result.start_nll_per_token:.3f}"]]
    for number, stage in enumerate(result.stages):
        check = stage["check"]
        reward = check.get("reward")
        rows.append(
            [
                stage_title(number) if "sample" in stage["phases"] else result.method,
                f"{-check['nll_per_token']:.3f}" if check else "no held-out rows",
                f"{reward['margin']:+.3f}" if reward else "",
                accuracy_text(reward) if reward else "",
                _steps(stage["phases"]),
                minutes(sum(phase["seconds"] for phase in stage["phases"].values())),
                f"{max(phase['peak_memory_gib'] for phase in stage['phases'].values()):.1f} GiB",
            ]
        )
    headings = ("", "logp/token", "margin", "accuracy [95%]", "steps", "time", "memory")
    show_table(f"{result.method}: what was learned, on held-out demonstrations", headings, rows)
    _say_equal(result)
    if result.reward_folder is None:
        _say_implicit(result)
    else:
        _say_explicit(result)
    if result.estimate is not None:
        show_comparison(result.estimate)
    if result.best_stage < len(result.stages) - 1:
        say(f"{stage_title(result.best_stage)} is the result: later ones made held-out demonstrations less likely")
    say(f"The model is in {result.model_folder}. Load it with:")
    load = "AutoPeftModelForCausalLM" if is_adapter(result.model_folder) else "AutoModelForCausalLM"
    say(f"  from {'peft' if is_adapter(result.model_folder) else 'transformers'} import {load}")
    say(f'  model = {load}.from_pretrained("{result.model_folder}")')


def _say_equal(result: RunResult) -> None:
    """How many samples equalled their demonstration, so that they made no pair."""
    for number, stage in enumerate(result.stages):
        sampled, title = stage["phases"].get("sample", {}), stage_title(number)
        equal, heldout = (sampled.get(name, 0) for name in ("equal_samples", "equal_heldout_samples"))
        if equal or heldout:
            say(
                f"{title}: {equal} samples, and {heldout} held-out ones, gave the same answer as their demonstration "
                f"and made no pair; {sampled['pairs']} pairs were trained on, {sampled['rows_without_pairs']} rows had "
                "none"
            )


def _say_implicit(result: RunResult) -> None:
    check = result.stages[-1]["check"]
    since = check.get("reward_since_start") or check.get("reward")
    if since:
        say(
            f"The reward learned since the start model prefers the held-out demonstration to the start model's own "
            f"sample in {accuracy_text(since)} of {since['prompts']} prompts (95% interval; one run)."
        )


def _say_explicit(result: RunResult) -> None:
    """What RFT's reward knows on held-out pairs and what the policy earns by it; where a guard rail ended a stage."""
    for number, stage in enumerate(result.stages):
        check, steps, title = stage["check"], stage["phases"]["policy"], stage_title(number)
        reward, policy = check.get("reward"), check.get("policy")
        if reward and reward["matched_pairs"]:
            matched = Interval(**reward["matched_accuracy"]).text()
            say(f"{title}: accuracy on the {reward['matched_pairs']} held-out pairs of like length {matched}")
        if policy and not steps["kept"]:
            better = Interval(**policy["better"]).text()
            say(
                f"{title}: on {policy['prompts']} held-out prompts samples earn {policy['reward_before']:+.2f} "
                f"before, {policy['reward_after']:+.2f} after (demonstrations {policy['demo_reward']:+.2f}); after is "
                f"better in {better}; KL to the start model {steps['last']['objective/kl']:.1f} nats a response"
            )
        if steps["stopped"]:
            say(f"{title}: policy steps were stopped: {steps['stopped']}", style="yellow")
        if steps["kept"]:
            say(f"{title}: the policy was kept, no policy steps were taken: {steps['kept']}", style="yellow")
    say(f"The reward is in {result.reward_folder}: demotune score --reward {result.reward_folder} --data ROWS")


def _steps(phases: dict[str, Any]) -> str:
    """Optimizer steps of a stage: of the policy, or of the reward and of the policy."""
    return "+".join(str(phases[phase]["steps"]) for phase in phases if "steps" in phases[phase])


def accuracy_text(reward: dict[str, Any]) -> str:
    """Held-out reward accuracy with its 95% interval."""
    return Interval(**reward["accuracy"]).text()


def _all_metrics(setup: Setup, count: int) -> Iterator[dict[str, Any]]:
    """Every training record and one record per finished phase, in order, each with its stage."""
    for number in range(count):
        for phase, record in setup.folder.stage_state(number).items():
            if (name := metrics_of(phase)) in record["outputs"]:
                for row in read_rows(setup.folder.stage(number) / name):
                    yield {"stage": number, "phase": phase, **row}
            yield {"stage": number, "phase": phase, "finished": True, **record}
        yield {"stage": number, "phase": "check", **as_json(setup.folder.stage_check(number))}
