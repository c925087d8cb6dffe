"""The work of a phase, as counted before it: tokens, gradient steps, models loaded and saved."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that go through a model. Numbers are floats because they are expectations."""

    computed: float = 0.0
    positions: float = 0.0
    """Where the head of the vocabulary runs."""
    attended: float = 0.0
    """Sum over tokens of how many tokens each attends to: what attention costs."""
    counted: float = 0.0
    """As a run counts them in state.json."""

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.computed + other.computed,
            self.positions + other.positions,
            self.attended + other.attended,
            self.counted + other.counted,
        )

    def times(self, factor: float) -> "Tokens":
        return Tokens(self.computed * factor, self.positions * factor, self.attended * factor, self.counted * factor)


@dataclass(frozen=True, slots=True)
class Draw:
    """Responses drawn `slots` at a time, token by token; where one ends, the next one begins."""

    rows: float
    prompt: float
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response."""
    slots: int
    prefill: Tokens
    """The prompts: each once, what all of them begin with once over all; the head gives each row its first token."""

    @property
    def decoding(self) -> Tokens:
        """The tokens of responses, one at a time; each attends to its prompt and to what came before it."""
        count = self.rows * self.response
        return Tokens(
            computed=count,
            positions=count,
            attended=count * (self.prompt + self.response / 2),
            counted=self.rows * self.prompt + count,
        )

    def times(self, factor: float) -> "Draw":
        return replace(self, rows=factor * self.rows, prefill=self.prefill.times(factor))


@dataclass(frozen=True, slots=True)
class Training:
    """Gradient steps on `tokens` in all; `largest` is the micro-batch that takes the most memory."""

    tokens: Tokens
    largest: Tokens
    steps: float
    microbatches: float

    def times(self, factor: float) -> "Training":
        return replace(
            self,
            tokens=self.tokens.times(factor),
            steps=factor * self.steps,
            microbatches=factor * self.microbatches,
        )


@dataclass(frozen=True, slots=True)
class PhaseWork:
    """One phase of one stage. How long samples will be is not known: they are as long as expected."""

    draws: tuple[Draw, ...] = ()
    scored: Tokens = Tokens()
    training: Training | None = None
    models: int = 1
    """Whole models in memory (an adapter's twins share theirs)."""
    loads: int = 0
    saves: int = 0
    stage: int = 0
    name: str = ""
    """Of the phase; it and the stage are filled in by the method that the phase belongs to."""

    @property
    def forward_tokens(self) -> float:
        """As state.json counts them."""
        return sum(draw.decoding.counted for draw in self.draws) + self.scored.counted

    @property
    def trained_tokens(self) -> float:
        return self.training.tokens.counted if self.training else 0.0

    def as_counted(self, forward_tokens: float, trained_tokens: float) -> "PhaseWork":
        """The work of a phase that came to other numbers of tokens than expected, in proportion."""
        forward = forward_tokens / self.forward_tokens if self.forward_tokens else 0.0
        trained = trained_tokens / self.trained_tokens if self.trained_tokens else 0.0
        return replace(
            self,
            draws=tuple(draw.times(forward) for draw in self.draws),
            scored=self.scored.times(forward),
            training=self.training.times(trained) if self.training else None,
        )
