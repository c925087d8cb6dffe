"""Peak memory of RFT's policy steps with LoRA: one copy of the base weights, or one for each of its models.

    python benchmarks/rft_memory.py MODEL DATA FOLDER

Runs the same small RFT twice, each in a process of its own: as it is, and with true copies in place of shared weights
(policy, reward and start model; the value head is a vector either way). Prints peak memory of the policy phase and says
whether both gave the same policy and reward, to the bit.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

from demotune import RFTConfig, run
from demotune.models.policy import content_hash

MODES = ("shared", "copies")


def one_run(model: str, data: str, output: str, mode: str) -> None:
    """An RFT run of one stage with few tokens; `copies` replaces weight sharing by deep copies."""
    if mode == "copies":
        from demotune.models import reward as reward_models  # noqa: PLC0415
        from demotune.training.phases import policy  # noqa: PLC0415

        for room in (reward_models, policy):
            room.weight_sharing_base = lambda model: copy.deepcopy(model).unload()  # type: ignore[attr-defined]
    run(
        RFTConfig(
            model=model,
            data=(data,),
            output=output,
            use_peft=True,
            advantage="gae",
            stages=1,
            max_rows=8,
            max_length=128,
            max_bad_share=1.0,
            max_new_tokens=32,
            samples_per_prompt=1,
            finished_only=False,
            force=True,
            per_device_train_batch_size=1,
            sample_batch_size=4,
            reward_steps=1,
            policy_batches=1,
            prompts_per_batch=2,
            num_generations=2,
            stop_reward_margin=0,
        )
    )


def main() -> None:
    model, data, folder = sys.argv[1:4]
    if len(sys.argv) == 5:
        one_run(model, data, folder, sys.argv[4])
        return
    hashes = {}
    for mode in MODES:
        output = Path(folder) / mode
        subprocess.run([sys.executable, __file__, model, data, str(output), mode], check=True, capture_output=True)
        state = json.loads((output / "stages" / "00" / "state.json").read_text(encoding="utf-8"))
        print(f"{mode:>7}: {state['policy']['peak_memory_gib']:.2f} GiB at the end of the policy phase")
        hashes[mode] = [content_hash(output / part) for part in ("model", "reward")]
    print("same policy and reward, to the bit:", hashes["shared"] == hashes["copies"])


if __name__ == "__main__":
    main()
