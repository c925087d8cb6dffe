"""Judges on the answers of an evaluation: what each gives, who wins, and what speaks against a judge."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from demotune.common.progress import track
from demotune.config.evaluation import EvaluationConfig
from demotune.evaluation.judges.judges import Contest, FunctionJudge, Judge, Verdict, conflict_note
from demotune.evaluation.judges.server import ServerJudge, order_dependent_share
from demotune.evaluation.measuring import Earned, EvalInputs, Measured, reward_everything
from demotune.evaluation.subjects import short_names
from demotune.rewards.load import load_reward
from demotune.rewards.reward import Reward
from demotune.runs.file_names import JUDGE_REPLIES
from demotune.runs.heldout import win


@dataclass(frozen=True, slots=True)
class Judged:
    """What one judge said."""

    name: str
    kind: str
    """reward, function or model."""
    hash: str | None
    """Content hash of a reward model; None for functions, for judge models, and for a reward of two policies."""
    note: str | None
    """Why it is no impartial judge, as far as files show."""
    earned: Earned | None
    """What a reward gives; None for other judges."""
    verdicts: dict[str, tuple[float | None, ...]]
    """Baseline name -> 1 where the model's answer is better, 0.5 tie, 0, None abstained; in the order of the rows."""
    abstained: dict[str, int]
    """Reason -> how often there was no verdict."""
    order_dependent: float | None
    """Share of a judge model's verdicts that changed with the order of the answers (counted as ties)."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The judges that were asked for."""

    rewards: dict[str, Reward]
    """By what was given as --reward. `ask_rewards` takes them out one by one, so that one is in memory at a time."""
    judges: tuple[tuple[str, Judge], ...]
    """(function or model, judge)."""


def find_judges(config: EvaluationConfig) -> Panel:
    """All judges, before anything is measured. Raises DemotuneError for one that cannot be had."""
    judges: list[tuple[str, Judge]] = [("function", FunctionJudge.load(spec)) for spec in config.judge]
    if config.judge_url is not None and config.judge_model is not None:
        journal = Path(config.output) / JUDGE_REPLIES
        judges.append(("model", ServerJudge(url=config.judge_url, model=config.judge_model, journal=journal)))
    rewards = {source: load_reward(source, dtype=config.dtype, bf16=config.bf16) for source in config.reward}
    return Panel(rewards, tuple(judges))


def ask_rewards(inputs: EvalInputs, rewards: dict[str, Reward], measured: dict[str, Measured]) -> list[Judged]:
    """Each reward on everything; a reward that trained one of the models, or chose its data, is named."""
    subjects = inputs.subjects
    found = []
    for source, name in zip(list(rewards), short_names(list(rewards)), strict=True):
        reward = rewards.pop(source)
        note = conflict_note(source, reward.hash, [subject.folder for subject in subjects])
        earned = reward_everything(inputs, reward, measured)
        reward_hash = reward.hash
        del reward
        ours = earned.answers.get(subjects[0].name, ())
        verdicts = {
            baseline.name: tuple(
                None if one is None or other is None else win(one, other)
                for one, other in zip(ours, earned.answers[baseline.name], strict=True)
            )
            for baseline in subjects[1:]
            if ours
        }
        unread = sum(verdict is None for of_baseline in verdicts.values() for verdict in of_baseline)
        abstained = {"an answer that the reward cannot read": unread} if unread else {}
        found.append(Judged(name, "reward", reward_hash, note, earned, verdicts, abstained, None))
    return found


def ask_judge(inputs: EvalInputs, kind: str, judge: Judge, measured: dict[str, Measured]) -> Judged:
    """A function or a judge model on the model's answers against each baseline's."""
    verdicts: dict[str, list[Verdict]] = {}
    ours = measured[inputs.subjects[0].name].answers
    for baseline in inputs.subjects[1:]:
        contests = [
            Contest(row.key, row.demo.prompt, mine.text, other.text, row.demo.response)
            for row, mine, other in zip(inputs.rows.rows, ours, measured[baseline.name].answers, strict=True)
        ]
        with track(f"{judge.name}: against {baseline.name}", len(contests), "verdicts") as tracker:
            verdicts[baseline.name] = judge.judge(contests, tracker.advance)
    everything = [verdict for of_baseline in verdicts.values() for verdict in of_baseline]
    return Judged(
        name=judge.name,
        kind=kind,
        hash=None,
        note=None,
        earned=None,
        verdicts={name: tuple(verdict.result for verdict in found) for name, found in verdicts.items()},
        abstained=dict(Counter(verdict.reason for verdict in everything if verdict.result is None)),
        order_dependent=order_dependent_share(everything) if kind == "model" else None,
    )
