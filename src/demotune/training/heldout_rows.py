"""Held-out demonstrations under the policies of a run, row by row, with each policy's own answers."""

from collections.abc import Callable, Sequence

from demotune.common.profiling import timed
from demotune.common.progress import track
from demotune.models.policy import Policy
from demotune.models.reference_logps import completion_logps
from demotune.records import Completion, Response
from demotune.runs.heldout import HeldoutRow
from demotune.runs.shared_work import shared
from demotune.training.drawing import draw_with
from demotune.training.pairs import first_heldout_samples
from demotune.training.stage import Stage, tokens_of


def start_rows(stage: Stage) -> list[HeldoutRow]:
    """Held-out rows under the start model; its answers are the first ones of the SAMPLE phase where there is one."""
    answers: Sequence[Response]
    if stage.done("sample"):
        answers = first_heldout_samples(stage.setup, stage.number)
    else:
        answers = _answers(stage, lambda: stage.start_policy, "start", "start model: held-out answers")
    return _rows(stage, stage.start_policy, answers, "start", "start model: held-out")


def trained_rows(stage: Stage) -> list[HeldoutRow]:
    """Held-out rows under the policy that the stage trained, with fresh answers."""
    name = f"{stage.title}: held-out"
    answers = _answers(stage, lambda: stage.trained_policy, "check", f"{name} answers")
    return _rows(stage, stage.trained_policy, answers, "check", name)


def heldout_tokens(stage: Stage, answered: Sequence[HeldoutRow]) -> int:
    """Held-out demonstrations scored, and the answers of `answered` drawn."""
    rows = stage.setup.heldout
    demos = tokens_of((row.prompt_ids, row.demo) for row in rows)
    answers = tokens_of((row.prompt_ids, drawn.response) for row, drawn in zip(rows, answered, strict=False))
    return demos + answers


def _answers(stage: Stage, policy: Callable[[], Policy], purpose: str, what: str) -> Sequence[Response]:
    prompts = [row.prompt_ids for row in stage.setup.heldout]
    with track(what, len(prompts), "responses") as tracker:
        return draw_with(stage, policy, prompts, purpose=purpose, tracker=tracker)


@timed("scoring")
def _rows(stage: Stage, policy: Policy, answers: Sequence[Response], purpose: str, what: str) -> list[HeldoutRow]:
    demonstrations, config = stage.setup.heldout, stage.setup.config
    decode = stage.setup.renderer.decode
    with track(what, len(demonstrations), "rows") as tracker, shared(f"{purpose}-logps", stage.folder):
        logps = completion_logps(
            policy,
            [Completion(row.prompt_ids, row.demo) for row in demonstrations],
            batch_size=config.per_device_train_batch_size,
            bf16=stage.setup.bf16,
            advance=tracker.advance,
        )
    return [
        HeldoutRow(
            key=row.key,
            prompt=decode(row.prompt_ids),
            demonstration=decode(row.demo.ids),
            demo_logp=logp,
            demo_tokens=len(row.demo.ids),
            sample=decode(answer.ids),
            sample_ids=answer.ids,
            finished=answer.finished,
        )
        for row, logp, answer in zip(demonstrations, logps, answers, strict=True)
    ]
