"""How good the estimate's constants are on this machine: kinds of work, measured against modelled.

    OMP_NUM_THREADS=1 python benchmarks/calibrate.py MODEL DATA FOLDER [METHOD ...]

Runs each method on a few rows and compares each kind of work with what `estimation.costs` makes of the tokens that were
really counted, so that lengths of samples play no part. Set EFFICIENCIES there until the ratios are near 1. Time is
processor time: what else runs on the machine counts little, but matrix products must have one thread.
"""

import sys
import time
from collections import defaultdict
from typing import Any, get_args

import torch

from demotune.common import profiling
from demotune.config.methods import CONFIGS
from demotune.estimation.estimate import estimate_config
from demotune.estimation.forecast import finished
from demotune.pipeline import run

FEW: dict[str, dict[str, Any]] = {
    "sft": {"max_rows": 24, "num_train_epochs": 1.0},
    "irft": {"max_rows": 12, "epochs_per_stage": 1.0, "stages": 1, "max_new_tokens": 48, "samples_per_prompt": 1},
    "rft": {"max_rows": 16, "reward_steps": 1, "policy_batches": 1, "prompts_per_batch": 4, "stages": 1}
    | {"finished_only": False, "max_new_tokens": 48, "samples_per_prompt": 1, "stop_reward_margin": 0.0, "force": True},
}


def main() -> None:
    model, data, folder, *methods = sys.argv[1:]
    if not torch.cuda.is_available():
        profiling.clock = time.process_time
    for method in methods or FEW:
        output = f"{folder}/{method}"
        config = CONFIGS[method](model=model, data=(data,), output=output, profile=True, **FEW[method])  # type: ignore[index]
        expected, _ = estimate_config(config, None)
        result = run(config)
        modelled, least = defaultdict[str, float](float), defaultdict[str, float](float)
        for work, record in finished(expected, [stage["phases"] for stage in result.stages]):
            done = work.as_counted(record["forward_tokens"], record["trained_tokens"])
            for kind, seconds in expected.costs.seconds(done).items():
                modelled[kind] += seconds
            for kind, flops in expected.costs.flops(done).items():
                least[kind] += flops / expected.machine.products
        print(f"\n{method:10} measured  modelled  measured/modelled  share of ceiling: measured  modelled")
        for kind in get_args(profiling.Kind):
            seconds = (result.profile or {}).get(kind, 0.0)
            shares = [least[kind] / value if least[kind] and value else 0.0 for value in (seconds, modelled[kind])]
            ratio = seconds / modelled[kind] if modelled[kind] else 0.0
            print(
                f"{kind:10} {seconds:7.1f} s {modelled[kind]:7.1f} s {ratio:18.2f} {shares[0]:26.0%} {shares[1]:9.0%}"
            )


if __name__ == "__main__":
    main()
