"""The experiment loggers that transformers can report to, by the names of `report_to`."""

from collections.abc import Sequence
from importlib.util import find_spec

from demotune.common.errors import DemotuneError
from demotune.common.suggestions import did_you_mean

PACKAGES = {
    "azure_ml": "azureml-core",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Logger -> what pip installs for it."""
_MODULES = {"azure_ml": "azureml", "flyte": "flytekit"}


def refuse_unknown_loggers(report_to: Sequence[str]) -> None:
    """Raise DemotuneError for a logger that transformers does not know or that is not installed.

    `none` and `all` are given alone and mean what they mean in transformers: no logger, and each one that is installed.
    """
    for name in report_to:
        if name in {"none", "all"}:
            if len(report_to) > 1:
                raise DemotuneError(f"report_to is {', '.join(report_to)}, and {name} stands alone; drop one of them")
        elif name not in PACKAGES:
            advice = did_you_mean(name, PACKAGES) or f"it can be {', '.join(PACKAGES)}, none or all"
            raise DemotuneError(f"report_to names {name!r}, which transformers does not know; {advice}")
        elif find_spec(_MODULES.get(name, name)) is None:
            raise DemotuneError(f"report_to names {name}, which is not installed; pip install {PACKAGES[name]}")
