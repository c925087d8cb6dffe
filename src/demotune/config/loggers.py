"""The experiment loggers that a run can report to, by the names of `report_to`: those of accelerate."""

from collections.abc import Sequence
from importlib.util import find_spec

from demotune.common.errors import DemotuneError
from demotune.common.suggestions import did_you_mean

LOGGERS = (
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)
"""Each is also the name of its package."""


def loggers_of(report_to: Sequence[str]) -> tuple[str, ...]:
    """The loggers that `report_to` asks for: none of them for `none`, each installed one for `all`."""
    if tuple(report_to) == ("all",):
        return tuple(name for name in LOGGERS if find_spec(name) is not None)
    return () if tuple(report_to) == ("none",) else tuple(report_to)


def refuse_unknown_loggers(report_to: Sequence[str]) -> None:
    """Raise DemotuneError for a logger that accelerate does not know or that is not installed.

    `none` and `all` are given alone and mean what they mean in transformers: no logger, and each one that is installed.
    """
    for name in report_to:
        if name in {"none", "all"}:
            if len(report_to) > 1:
                raise DemotuneError(f"report_to is {', '.join(report_to)}, and {name} stands alone; drop one of them")
        elif name not in LOGGERS:
            advice = did_you_mean(name, LOGGERS) or f"it can be {', '.join(LOGGERS)}, none or all"
            raise DemotuneError(f"report_to names {name!r}, which accelerate does not know; {advice}")
        elif find_spec(name) is None:
            raise DemotuneError(f"report_to names {name}, which is not installed; pip install {name}")
