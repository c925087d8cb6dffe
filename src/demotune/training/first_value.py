"""What is known of the first number of a phase: before any update it is computed for policy and reference alike."""

from dataclasses import dataclass

from demotune.common.errors import DemotuneError


@dataclass(frozen=True, slots=True)
class ExpectedFirstValue:
    """What the objective's `at_start` must be on average before the first update, and how far rounding may move it."""

    what: str
    expected: float
    tolerance: float


def check_first_value(found: float, start: ExpectedFirstValue) -> None:
    """Raise DemotuneError unless a stage starts where its reference is: there this number is known exactly."""
    if abs(found - start.expected) > start.tolerance:
        raise DemotuneError(
            f"the first {start.what} of the stage is {found:.6f}, it must be {start.expected:.6f} within "
            f"{start.tolerance:g}: before the first update policy and reference are the same model. They were computed "
            "differently: look for active dropout, a precision other than the one the reference was scored in, or "
            "scores of another policy"
        )
