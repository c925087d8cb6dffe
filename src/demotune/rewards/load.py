"""A reward by name: from a run, a folder or the hub."""

from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.models.policy import content_hash, resolve_model
from demotune.rewards.implicit import ImplicitReward
from demotune.rewards.reward import Reward
from demotune.rewards.scalar import ScalarReward
from demotune.runs.folder import RunFolder
from demotune.runs.manifest import read_manifest


def load_reward(
    source: str | Path, *, template: str | None = None, dtype: str = "float32", bf16: bool | None = None
) -> Reward:
    """The reward at `source`: a finished run of rft (explicit), of irft, spin or sft (implicit), or a reward model.

    SFT's is log pi/pi_0, the log-ratio of its policy to its start model: good at ranking, and no target for
    reinforcement learning, under which a policy writes what SFT made likelier rather than what is better.

    A reward model is a folder or hub id of a sequence classifier with one label, an RFT run's reward/ among them.
    template: prompt template with {prompt} instead of the reward's own; dtype: type in which weights are held; bf16:
    compute in bfloat16 autocast, when None where the hardware has it.

    Raises DemotuneError for an unfinished run, and for anything that is no reward.
    """
    run = RunFolder(Path(source))
    if not run.holds_run:
        return ScalarReward(source, template=template, dtype=dtype, bf16=bf16)
    if not run.finished:
        raise DemotuneError(f"{source} is an unfinished run; finish it with: demotune resume {source}")
    config = run.read_config()
    if config.learned_reward == "explicit":
        return ScalarReward(run.reward, template=template, dtype=dtype, bf16=bf16)
    _check_reference(run, config.model)
    template = config.template if template is None else template
    return ImplicitReward(
        run.model,
        config.model,
        1.0 if config.learned_reward == "none" else config.beta,
        template=template,
        answer_after=config.answer_after,
        ranks_only=config.learned_reward == "none",
        dtype=dtype,
        bf16=bf16,
    )


def _check_reference(run: RunFolder, reference: str) -> None:
    """The start model must be the one that the run began with: a folder may have been moved or written anew."""
    begun = read_manifest(run.manifest).model
    try:
        found = content_hash(resolve_model(reference))
    except DemotuneError as error:
        raise DemotuneError(
            f"the reward of {run.root} needs the run's start model, {reference}, and there: {error}"
        ) from error
    if found != begun:
        raise DemotuneError(
            f"the start model of {run.root}, {reference}, is not what it was when the run began, so the run's reward "
            "cannot be computed; put the old files back"
        )
