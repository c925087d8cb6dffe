"""The rows in the JSON Lines files of a run: one record a kind. `json_records` reads and writes them."""

from dataclasses import dataclass
from typing import Literal

from demotune.records import Pair, Response


@dataclass(frozen=True, slots=True)
class RowName:
    """rows.jsonl.gz: a row that the run trained on or held out, without its text."""

    key: str
    prompt: str
    """The key of its question: rows that ask the same have the same."""
    heldout: bool


@dataclass(frozen=True, slots=True)
class SampleRow:
    """samples.jsonl.gz: a demonstration and a sample of the policy that the stage started from.

    Rows with one demonstration follow each other, in the order in which their samples were drawn.
    """

    key: str
    heldout: bool
    finished: bool
    """Whether the sample ended by itself."""
    prompt: str
    demonstration: str
    sample: str
    prompt_ids: tuple[int, ...]
    demo_ids: tuple[int, ...]
    demo_finished: bool
    sample_ids: tuple[int, ...]
    demo_thought: int | None = None
    """How many tokens come before the answer, which alone is compared (`answer_after`); None in other runs."""
    sample_thought: int | None = None
    """Likewise; 0 where the sample has no answer."""

    @property
    def equal(self) -> bool:
        """Whether the two make no pair to learn from (`Pair.equal`)."""
        return not self.unanswered and self.pair.equal

    @property
    def unanswered(self) -> bool:
        """Whether the run reads answers only and the sample has none."""
        return self.sample_thought == 0

    @property
    def pair(self) -> Pair:
        """As token ids, with their thoughts marked."""
        demo, sample = Response(self.demo_ids, self.demo_finished), Response(self.sample_ids, self.finished)
        return Pair(self.key, self.prompt_ids, demo, sample, self.demo_thought or 0, self.sample_thought or 0)


@dataclass(frozen=True, slots=True)
class ContrastRow:
    """contrast.jsonl.gz: an answer of another model than the stage's policy to the prompt of a row.

    A row has M that make a pair, or fewer, and those that equal what is preferred to them.
    """

    key: str
    heldout: bool
    source: Literal["start", "base"]
    """The run's start model, or the model before SFT."""
    sample: str
    sample_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """reference_logps.jsonl.gz: the reference's log-probabilities of a pair, summed over tokens, nats.

    First the stage's training pairs, then those of earlier stages that are used again, then held-out pairs. Samples
    that are their demonstration have none.
    """

    key: str
    demo_ref_logp: float
    sample_ref_logp: float


@dataclass(frozen=True, slots=True)
class ImplicitRow:
    """implicit.jsonl.gz: beta times the log-ratio of a held-out pair under the policy after the stage."""

    key: str
    demo_reward: float
    sample_reward: float


@dataclass(frozen=True, slots=True)
class RewardRow:
    """rewards.jsonl.gz: a pair by the stage's reward model; lengths are in tokens."""

    key: str
    heldout: bool
    usable: bool
    """Whether the reward may see the pair; with `finished_only` both sides ended by themselves."""
    demo_reward: float
    sample_reward: float
    demo_length: int
    sample_length: int
