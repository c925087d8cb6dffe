"""Records that packages exchange, all of them frozen: of text, then of token ids, then of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Message = Mapping[str, str]
"""One chat turn: `role` is system, user or assistant; `content` is its text.

An assistant turn may have `reasoning_content`, the reasoning before its content.
"""


Side = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of one response to it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a row gives the chat template beside the conversation; each entry as in the row."""

    tools: tuple[Mapping[str, object], ...] = ()
    """JSON schemas of functions."""
    documents: tuple[Mapping[str, object], ...] = ()
    """Texts to answer from, usually with `title` and `text`."""


NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation that ends with the user's turn, and the response to imitate."""

    prompt: tuple[Message, ...]
    response: str
    source: str
    """Where the row stood, `FILE:LINE`, for messages."""
    reasoning: str = ""
    """The reasoning before the response, where the row has a column for it."""
    context: Context = NO_CONTEXT


@dataclass(frozen=True, slots=True)
class Preference:
    """Two responses to one conversation, of which `chosen` was preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str
    """Where the row stood, `FILE:LINE`."""
    chosen_reasoning: str = ""
    rejected_reasoning: str = ""
    context: Context = NO_CONTEXT

    @property
    def sides(self) -> tuple[Demonstration, Demonstration]:
        """Chosen and rejected."""
        return (
            Demonstration(self.prompt, self.chosen, self.source, self.chosen_reasoning, self.context),
            Demonstration(self.prompt, self.rejected, self.source, self.rejected_reasoning, self.context),
        )


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of data that was refused: where it was, a short reason to count by, and what exactly was wrong."""

    source: str
    """`FILE:LINE`, 1-based. JSON, Parquet and datasets have no lines: there the number counts rows."""
    reason: str
    """One of `data.Reason`, or of those for which a row is refused later, when it is rendered."""
    detail: str
    """What was wrong and the type of the value, with at most 60 characters of content."""


@dataclass(frozen=True, slots=True)
class Response:
    """Token ids of a response, the end-of-turn token included when the response is finished."""

    ids: tuple[int, ...]
    finished: bool
    """False when the length limit cut it off: then it has no end-of-turn token. False, too, where a run that reads
    answers only (`answer_after`) finds none in it."""
    logps: tuple[float, ...] | None = field(default=None, compare=False)
    """Log-probability of each token under the policy that drew it, in nats; None where the sampler keeps none."""


@dataclass(frozen=True, slots=True)
class RenderedDemonstration:
    """A demonstration as the model sees it. `prompt_ids` end where the policy starts to write."""

    prompt_ids: tuple[int, ...]
    demo: Response
    key: str
    """Content hash of prompt and response ids: the name of this row in every file of a run."""
    served_ids: tuple[int, ...] = ()
    """The prompt as serving sends it, where `prompt_ids` are another one: cut to fit, or without reasoning for a model
    that reasons; else empty."""

    @property
    def question(self) -> tuple[int, ...]:
        """The same for all rows that ask the same, with reasoning or without."""
        return self.served_ids or self.prompt_ids

    @property
    def tokens(self) -> int:
        """Of prompt and response together."""
        return len(self.prompt_ids) + len(self.demo.ids)


@dataclass(frozen=True, slots=True)
class ScoredDemonstration:
    """A demonstration with the log-probability of each response token under the start model, in nats."""

    row: RenderedDemonstration
    start_logps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A demonstration beside the policy's own sample for the same prompt."""

    key: str
    prompt_ids: tuple[int, ...]
    demo: Response
    sample: Response
    demo_thought: int = 0
    """How many tokens come before the answer, which alone is compared; and so for the sample."""
    sample_thought: int = 0

    @property
    def equal(self) -> bool:
        """Whether the two answers are the same, token by token: then there is nothing to learn from."""
        return self.demo.ids[self.demo_thought :] == self.sample.ids[self.sample_thought :]

    @property
    def answers(self) -> "Pair":
        """The same without its thoughts."""
        demo = replace(self.demo, ids=self.demo.ids[self.demo_thought :], logps=None)
        sample = replace(self.sample, ids=self.sample.ids[self.sample_thought :], logps=None)
        return Pair(self.key, self.prompt_ids, demo, sample)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Demonstration and sample, each with the prompt; a thought stands with the prompt, since it is given."""
        return _side(self.prompt_ids, self.demo.ids, self.demo_thought), _side(
            self.prompt_ids, self.sample.ids, self.sample_thought
        )


def _side(prompt: tuple[int, ...], response: tuple[int, ...], thought: int) -> Side:
    return (*prompt, *response[:thought]), response[thought:]


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with the reference policy's log-probabilities, summed over response tokens, in nats."""

    pair: Pair
    demo_ref_logp: float
    sample_ref_logp: float


@dataclass(frozen=True, slots=True)
class Triplet:
    """A pair beside the start model's sample for the same prompt."""

    pair: Pair
    first: Response
    first_thought: int = 0
    """How many of its tokens come before the answer."""

    @property
    def first_side(self) -> Side:
        """The start model's sample with the prompt; a thought stands with the prompt."""
        return _side(self.pair.prompt_ids, self.first.ids, self.first_thought)


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and one response to it, by a person or a policy: what a reward judges."""

    prompt_ids: tuple[int, ...]
    response: Response

    @property
    def tokens(self) -> int:
        """Of prompt and response together."""
        return len(self.prompt_ids) + len(self.response.ids)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A response of the policy to a prompt, with everything that its update needs.

    `logps` are those of the policy that wrote it, `ref_logps` those of the start model, per response token in nats.
    """

    prompt_ids: tuple[int, ...]
    response: Response
    logps: tuple[float, ...]
    ref_logps: tuple[float, ...]
    reward: float
    """By the learned reward; no KL penalty taken off yet."""
    advantages: tuple[float, ...]
    """One for the response, or one per token, in reward units."""
