"""Out of memory in a forward or backward pass of training: the work is begun again with passes of half the tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from demotune.common.errors import DemotuneError
from demotune.common.memory import give_back_memory, is_lack_of_memory
from demotune.common.processes import process_count
from demotune.common.progress import warn

Result = TypeVar("Result")


class PassTooLarge(Exception):  # noqa: N818 (no error until the smallest pass is too large)
    """Memory lacked for a pass over so many tokens and records."""

    def __init__(self, tokens: int, records: int, why: str) -> None:
        super().__init__(why)
        self.tokens, self.records = tokens, records


@contextmanager
def one_pass(tokens: int, records: int) -> Iterator[None]:
    """Raises PassTooLarge where memory lacks for the code under it."""
    try:
        yield
    except RuntimeError as error:
        if not is_lack_of_memory(error):
            raise
        raise PassTooLarge(tokens, records, str(error).strip().partition("\n")[0]) from None


def in_smaller_passes(
    attempt: Callable[[int | None], Result], budget: int | None, start_over: Callable[[], None]
) -> Result:
    """What `attempt` returns with the largest budget of tokens a pass, from `budget` on by halves, that memory allows.

    An attempt that fails leaves gradients of a part of its step, so it is not gone on with: `start_over` drops what it
    holds, and the next one takes up the last checkpoint. Raises DemotuneError where one record alone does not fit.
    """
    while True:
        failure: PassTooLarge | None = None
        try:
            return attempt(budget)
        except PassTooLarge as lack:
            failure = lack.with_traceback(None)  # whose frames hold what filled the memory
            failure.__context__ = None
        budget = _half(failure)
        start_over()
        give_back_memory()


def _half(failure: PassTooLarge) -> int:
    what = f"out of memory at {failure.tokens} tokens a pass"
    if failure.records == 1:
        raise DemotuneError(
            f"{what}, which are one row alone ({failure}); set a smaller --max-length, --activation-checkpointing or "
            "--use-peft, or take a smaller model; checkpoints are kept for demotune resume"
        )
    if process_count() > 1:  # the others wait for this one in the middle of a step
        raise DemotuneError(
            f"{what} in one of {process_count()} processes ({failure}); set --tokens-per-microbatch "
            f"{failure.tokens // 2}, or --activation-checkpointing"
        )
    warn(f"{what}; going on with {failure.tokens // 2}")
    return failure.tokens // 2
