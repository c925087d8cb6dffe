"""How long intake takes and how much memory, by number of rows; the first start, and the second, from the cache.

    python benchmarks/intake.py --model MODEL                          # 10,000, 100,000 and 1,000,000 rows
    python benchmarks/intake.py --model MODEL --rows 10000 --oracle 0  # without the peer

Rows are generated: prompt and completion of 10 to 40 English words each. Each measurement is a process of its own with
a cache of its own; seconds are those of `demotune.data.intake.prepare`, memory is the peak above what the process has
when the tokenizer is loaded. The peer is the oracle of the tests, which renders row by row as intake did before, on
--oracle rows.

Results are appended to benchmarks/results/intake.jsonl.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from demotune.config.methods import SFTConfig
from demotune.data.intake import prepare
from demotune.data.rendering import Renderer
from demotune.models.policy import resolve_model
from demotune.models.tokenizers import load_tokenizer
from demotune.training.microbatches import plan_microbatches

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from helpers.intake_oracle import expected_intake  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "intake.jsonl"
SHIPPED = ROOT / "src" / "demotune" / "cli" / "shipped" / "support_train.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--oracle", type=int, default=10_000, help="rows of the peer; 0: none")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.model, *given.measure)))
        return
    model = str(resolve_model(given.model))
    with tempfile.TemporaryDirectory() as folder:
        for count in given.rows:
            file = generate(Path(folder, f"{count}.jsonl"), count)
            hows = [*(["oracle"] if count == given.oracle else []), "first start", "second start"]
            for how in hows:
                record = {"rows": count, "how": how} | in_child(model, how, file, Path(folder, f"cache-{count}"))
                print(json.dumps(record), flush=True)
                with RESULTS.open("a", encoding="utf-8") as results:
                    results.write(json.dumps(record) + "\n")
            file.unlink()


def generate(file: Path, count: int) -> Path:
    """The same rows each time."""
    words = sorted(set(re.findall(r"[A-Za-z]{2,}", SHIPPED.read_text(encoding="utf-8"))))
    rng = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(count):
            prompt, completion = (" ".join(rng.choices(words, k=rng.randint(10, 40))) for _ in range(2))
            lines.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    return file


def in_child(model: str, how: str, file: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--model", model, "--measure", how, str(file)]
    load = os.getloadavg()[0]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"DEMOTUNE_CACHE": str(cache)}
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"load_before": round(load, 1), "cores": os.cpu_count()}


def measure(model: str, how: str, file: str) -> dict[str, Any]:
    """One start, in this process."""
    renderer = Renderer(load_tokenizer(Path(model)))
    config = SFTConfig(model=model, output="not written", data=(file,))
    before = psutil.Process().memory_info().rss
    started, spent = time.monotonic(), time.process_time()
    intake = (expected_intake if how == "oracle" else prepare)(config, renderer)
    found = {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(time.process_time() - spent, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20),
        "train": len(intake.train),
        "heldout": len(intake.heldout),
    }
    if how == "second start":
        started = time.monotonic()
        tokens = sum(len(row.prompt_ids) + len(row.demo.ids) for row in intake.train)
        found |= {"seconds_of_all_records": round(time.monotonic() - started, 2), "tokens": tokens}
        started = time.monotonic()
        plan_microbatches(
            intake.train.lengths,
            batch_size=config.per_device_train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            epochs=1,
            steps=None,
            seed=0,
        )
        found["seconds_of_plan"] = round(time.monotonic() - started, 2)
        found["peak_mib_with_plan"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20)
    return found


if __name__ == "__main__":
    main()
