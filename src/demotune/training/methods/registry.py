"""Which methods there are. `register` adds another one, with a config class of its own.

The config classes of these four are in `config.methods`, which must not import torch.
"""

from typing import Any, cast

from demotune.common.errors import DemotuneError
from demotune.config.methods import CONFIGS, RunConfig
from demotune.training.methods.irft import IRFT
from demotune.training.methods.method import Method
from demotune.training.methods.rft import RFT
from demotune.training.methods.sft import SFT
from demotune.training.methods.spin import SPIN

METHODS: dict[str, Method] = {method.name: method for method in (SFT, SPIN, IRFT, RFT)}


def method_of(config: RunConfig) -> Method:
    """The method whose config this is. Raises DemotuneError for a config class that belongs to no method."""
    for method in METHODS.values():
        if method.config is type(config):
            return method
    raise DemotuneError(
        f"{type(config).__name__} is the config of no method ({', '.join(METHODS)}); add its method with "
        "demotune.training.methods.register"
    )


def register(method: Method) -> None:
    """Add a method of your own: runs of its config can then be begun, resumed, estimated and reported."""
    METHODS[method.name] = method
    cast(dict[str, Any], CONFIGS)[method.name] = method.config
