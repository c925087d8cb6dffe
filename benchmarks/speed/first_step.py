"""Print the seconds from this process's start to the first gradient step of SFT: python first_step.py MODEL ROWS.

A process of its own that imports nothing else, as `demotune sft` does.
"""

import sys
import time
from typing import Any

import psutil
from transformers import TrainerCallback

from demotune import SFTConfig, run


class FirstStep(TrainerCallback):
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        print(f"first step after {time.time() - psutil.Process().create_time()} s", flush=True)


def main() -> None:
    model, rows = sys.argv[1:]
    config = SFTConfig(model=model, data=(rows,), output="run", max_steps=1, eval_share=0.0, max_length=256)
    run(config, callbacks=[FirstStep()])


if __name__ == "__main__":
    main()
