"""How much memory the rows of a stage take: samples, pairs, scores and plans of SPIN and RFT, by number of rows.

    python benchmarks/stage_memory.py                        # 20,000 and 100,000 rows
    python benchmarks/stage_memory.py --rows 20000 40000 --methods spin

Rows are generated: 20 to 40 letters of prompt and of completion, a token each; the model has two layers and knows
twelve tokens, so that memory is that of the rows. Each run is a process of its own: one stage that samples every
prompt, scores every pair (RFT: learns a reward, judges every pair) and takes two steps. Memory is the peak of the whole
run; `bytes_a_row` is what it grew by since the smallest number of rows, for each row more.

Results are appended to benchmarks/results/stage_memory.jsonl.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import demotune
from demotune.models.policy import save_policy

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from helpers.micro import letter_tokenizer, tiny_lm  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "stage_memory.jsonl"
SETTINGS: dict[str, Any] = {
    "template": "a{prompt}", "max_length": 128, "max_new_tokens": 40, "samples_per_prompt": 1, "stages": 1,
    "max_bad_share": 1.0, "sample_batch_size": 512, "per_device_train_batch_size": 64, "save_steps": 10**6,
}  # fmt: skip
METHODS: dict[str, Any] = {
    "spin": lambda **fields: demotune.SPINConfig(**{**SETTINGS, "steps_per_stage": 2} | fields),
    "rft": lambda **fields: demotune.RFTConfig(
        **{**SETTINGS, "reward_steps": 2, "policy_batches": 1, "prompts_per_batch": 4, "num_generations": 2} | fields,
        finished_only=False,
        force=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 100_000])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_lm(seed=0, vocabulary=12)
        model.config.max_position_embeddings = 128
        save_policy(model, letter_tokenizer(12), Path(folder, "model"))
        for method in given.methods:
            least = None
            for count in sorted(given.rows):
                found = in_child(method, generate(Path(folder, f"{count}.jsonl"), count))
                record = {"method": method, "rows": count, **found}
                if least:
                    grown, more = found["peak_mib"] - least[1], count - least[0]
                    record["bytes_a_row"] = round(grown * 2**20 / more)
                least = least or (count, found["peak_mib"])
                print(json.dumps(record), flush=True)
                with RESULTS.open("a", encoding="utf-8") as results:
                    results.write(json.dumps(record) + "\n")


def generate(file: Path, count: int) -> Path:
    """The same rows each time."""
    rng = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(count):
            prompt, completion = ("".join(rng.choices("abcdefghij", k=rng.randint(20, 40))) for _ in range(2))
            lines.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    return file


def in_child(method: str, data: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", method, str(data)]
    environment = os.environ | {
        "DEMOTUNE_CACHE": str(data.parent / "cache"),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",  # oneDNN keeps code for each shape that it meets, up to half a GiB
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(method: str, data: Path) -> dict[str, Any]:
    """One run, in this process."""
    started, output = time.monotonic(), data.parent / f"{method}-{data.stem}"
    demotune.run(METHODS[method](model=str(data.parent / "model"), data=(str(data),), output=str(output)))
    phases = {phase.name: phase.seconds for phase in demotune.load_run(output).stages[0].phases}
    return {
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "seconds": round(time.monotonic() - started),
        "of_phases": phases,
    }


if __name__ == "__main__":
    main()
