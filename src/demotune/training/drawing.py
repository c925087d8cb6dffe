"""Responses of a stage's policy, kept in a journal while they are drawn: a killed run draws no response twice."""

from collections.abc import Callable, Iterator, Sequence

from demotune.common.profiling import timed
from demotune.common.progress import Tracker
from demotune.common.record_arrays import RecordArrays
from demotune.models.policy import Policy
from demotune.records import Response
from demotune.rewards.answer_only import finished_by_answer
from demotune.runs.phase_journal import PhaseJournal
from demotune.sampling import SamplingOptions
from demotune.sampling.kept import draw_kept
from demotune.training.setup import Setup
from demotune.training.stage import Stage

ROUNDS = 3
"""How often samples that equal their demonstration are drawn again: a policy that knows a row by heart may write it
every time."""


def drawing_rounds(setup: Setup) -> Iterator[tuple[int, str]]:
    """(number, what its title ends with) of each time that samples are drawn, the first and those after it."""
    rounds = ROUNDS if setup.config.temperature else 0  # greedy samples would be the same again
    yield 0, ""
    yield from ((number, f" again ({number} of {rounds})") for number in range(1, 1 + rounds))


@timed("sampling")
def draw_with(
    stage: Stage,
    policy: Callable[[], Policy],
    prompts: Sequence[Sequence[int]],
    *,
    purpose: str,
    tracker: Tracker | None = None,
    first_stream: int = 0,
    with_logps: bool = False,
) -> Sequence[Response]:
    """Responses to all prompts, in their order; rows finished before an interruption are not drawn again.

    `purpose` names the journal and the seed; prompt i has the random stream `first_stream` + i of that seed. `policy`
    is asked for only when something is left to draw. `with_logps` keeps the policy's log-probabilities of the drawn
    tokens (see `keeps_logps`). Their last bits depend on the rows that are drawn together, so then an interrupted
    drawing begins anew.
    """
    seed = stage.seed(purpose)
    journal = PhaseJournal(stage.folder, f"{purpose}-{first_stream}")
    if with_logps and sum("logps" in record for record in journal.done.values()) < len(prompts):
        journal.start_over()
    responses = draw_kept(
        journal,
        lambda: stage.setup.sampler(policy, f"{stage.title} ({purpose})"),
        prompts,
        seed,
        sampling_options(stage.setup),
        tracker=tracker,
        first_stream=first_stream,
        with_logps=with_logps,
        expected=float(stage.setup.train.response_lengths.mean()),
    )
    marker = stage.setup.answer_marker
    if marker is None:
        return responses
    return RecordArrays(Response, (finished_by_answer(response, marker) for response in responses))


def sampling_options(setup: Setup) -> SamplingOptions:
    """How this run samples: as its config says, or as long as the longest demonstration."""
    config = setup.config
    return SamplingOptions(
        max_new_tokens=config.max_new_tokens or int(setup.train.response_lengths.max()),
        max_length=config.max_length,
        stop_ids=setup.renderer.stop_ids,
        vocabulary=setup.renderer.vocabulary,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        bf16=setup.bf16,
    )


def keeps_logps(setup: Setup) -> bool:
    """Whether responses carry log-probabilities of the policy that are exact enough to train on."""
    sampler = setup.sampler(lambda: setup.load(setup.start_model))
    return setup.float32 and sampler.keeps_logps(sampling_options(setup))
