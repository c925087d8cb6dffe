"""The gold study: SFT, more SFT, SPIN, IRFT and RFT where the truth is known.

    python benchmarks/gold/study.py FOLDER [--quick]

Two worker processes of one thread each. Every run is one line of ROWS; finished ones are not run again. Settings are
chosen on validation prompts with one seed, and reported on test prompts with others; `table.py` prints the tables.
"""

import argparse
import contextlib
import json
import multiprocessing
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measure import Questions, measure_policy, measure_reward
from task import LONGEST_ANSWER, demonstrations, draw_prompts, pretrain

import demotune
from demotune.common.files import read_rows
from demotune.config.methods import AnyConfig, IRFTConfig, RFTConfig, SFTConfig, SPINConfig, as_dict

RESULTS = Path(__file__).parent.parent / "results"
TUNING_SEED = 100
PATHS = ("model", "data", "output", "prompts")


@dataclass(frozen=True, slots=True)
class Size:
    """How big the study is. Few and many are numbers of demonstrations; steps are those of the policy."""

    few: int = 64
    many: int = 512
    steps: int = 48
    seeds: int = 5
    pretraining: int = 4000
    test_prompts: int = 400
    samples: int = 4
    conditions: int = 4
    settings: int = 4
    rows: str = "gold.jsonl"


QUICK = Size(48, 96, 8, 2, 300, 60, samples=1, conditions=1, settings=1, rows="gold-quick.jsonl")

NOISE = {"clean": 0.0, "noisy": 0.3}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "sft-more": [{"learning_rate": rate} for rate in (1e-3, 3e-4, 1e-4, 3e-5)],
    "spin": [{"learning_rate": rate} for rate in (1e-3, 3e-4, 1e-4, 3e-5)],
    **{
        f"irft-{link}": [
            {"learning_rate": 1e-3, "stages": 4},
            {"learning_rate": 3e-4, "stages": 4},
            {"learning_rate": 1e-4, "stages": 4},
            {"learning_rate": 3e-4, "stages": 8},
        ]
        for link in ("logistic", "linear", "nce")
    },
    **{
        name: [
            {"learning_rate": 1e-3, "beta": 0.1, "stages": 1},
            {"learning_rate": 1e-3, "beta": 0.3, "stages": 1},
            {"learning_rate": 1e-3, "beta": 0.3, "stages": 2},
            {"learning_rate": 3e-4, "beta": 0.1, "stages": 2},
        ]
        for name in ("rft", "rft-prompts")
    },
}
"""Four settings for each method, the same budget for all."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a method with a setting on demonstrations of a condition, drawn with a seed. `setting` None: SFT."""

    noise: str
    amount: str
    seed: int
    method: str
    setting: int | None
    part: str
    """Prompts to measure on: validation while tuning, test afterwards."""

    @property
    def key(self) -> tuple[object, ...]:
        return tuple(asdict(self).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="work folder: models, logs, runs while they last")
    parser.add_argument("--quick", action="store_true", help="one condition, one setting a method: a minute")
    given = parser.parse_args()
    size = QUICK if given.quick else Size()
    folder = given.folder.resolve() / Path(size.rows).stem
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if not (folder / "start").is_dir():
        torch.set_num_threads(2)
        pretrain(folder / "start-unfinished", size.pretraining)
        (folder / "start-unfinished").rename(folder / "start")
    conditions = [(noise, amount) for noise in NOISE for amount in ("few", "many")][: size.conditions]
    methods = list(SETTINGS)
    with multiprocessing.get_context("spawn").Pool(2, initializer=start_worker, initargs=(folder,)) as pool:
        seeds = [TUNING_SEED, *range(size.seeds)]
        work(pool, folder, size, [Job(*c, s, "sft", None, _part(s)) for c in conditions for s in seeds])
        tuning = [
            Job(*condition, TUNING_SEED, method, setting, "validation")
            for condition in conditions
            for method in methods
            for setting in range(len(SETTINGS[method]))[: size.settings]
        ]
        work(pool, folder, size, tuning)
        best = chosen_settings(size)
        final = [
            Job(*condition, seed, method, best[(*condition, method)], "test")
            for condition in conditions
            for seed in range(size.seeds)
            for method in methods
        ]
        work(pool, folder, size, final)
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes; rows in {RESULTS / size.rows}")


def chosen_settings(size: Size) -> dict[tuple[str, str, str], int]:
    """For each (noise, amount, method) the setting with the highest gold reward on validation prompts."""
    rows = [row for row in read_rows(RESULTS / size.rows) if row["part"] == "validation" and row["setting"] is not None]
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        where = (row["noise"], row["amount"], row["method"])
        if where not in best or row["gold"] > best[where]["gold"]:
            best[where] = row
    return {where: row["setting"] for where, row in best.items()}


def work(pool: Any, folder: Path, size: Size, jobs: list[Job]) -> None:
    """Run what has no row yet; append a row for each run that ends."""
    rows = RESULTS / size.rows
    done = {tuple(row[name] for name in Job.__slots__) for row in read_rows(rows)} if rows.exists() else set()
    missing = [job for job in jobs if job.key not in done or not _sft_model(folder, job).is_dir()]
    started = time.monotonic()
    for number, row in enumerate(pool.imap_unordered(do, [(folder, size, job) for job in missing]), start=1):
        with rows.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(row) + "\n")
        minutes = (time.monotonic() - started) / 60
        print(f"{number}/{len(missing)}  {minutes:.1f} min  {row['method']} {row['noise']} {row['amount']}", flush=True)


def start_worker(folder: Path) -> None:
    """One thread; what demotune says goes to a log."""
    torch.set_num_threads(1)
    log = (folder / f"worker-{multiprocessing.current_process().pid}.log").open("a", encoding="utf-8")
    contextlib.redirect_stdout(log).__enter__()
    contextlib.redirect_stderr(log).__enter__()


def do(task: tuple[Path, Size, Job]) -> dict[str, Any]:
    """Run one job and measure it."""
    folder, size, job = task
    place = folder / "-".join(str(value) for value in job.key)
    shutil.rmtree(place, ignore_errors=True)
    config = make_config(folder, size, job, place)
    started = time.monotonic()
    result = demotune.run(config)
    seconds = time.monotonic() - started
    questions = Questions.of(folder / "start", job.part, size.test_prompts)  # type: ignore[arg-type]
    origin = result.model_folder if job.method == "sft" else _sft_model(folder, job)
    found = measure_policy(questions, result.model_folder, origin, folder / "start", samples=size.samples)
    if result.reward_folder is not None:
        found |= measure_reward(questions, result.reward_folder)
    steps = {phase: [stage["phases"][phase]["steps"] for stage in result.stages] for phase in _phases(result)}
    kept = {
        "heldout_nll": result.stages[-1]["check"]["nll_per_token"],
        "seconds": round(seconds, 2),
        "optimizer_steps": steps,
        "config": {name: value for name, value in as_dict(config).items() if name not in PATHS},
    }
    settings = SETTINGS[job.method][job.setting] if job.setting is not None else {}
    if job.method == "sft":
        target = _sft_model(folder, job)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(result.model_folder, target)
    shutil.rmtree(place)
    return asdict(job) | settings | found | kept


def _phases(result: demotune.RunResult) -> list[str]:
    return [phase for phase in ("reward", "policy", "train") if phase in result.stages[0]["phases"]]


def make_config(folder: Path, size: Size, job: Job, place: Path) -> AnyConfig:
    """The config of a job: equal optimizer steps of the policy for every method that starts from the SFT model."""
    count = size.few if job.amount == "few" else size.many
    place.mkdir(parents=True)
    data = place / "rows.jsonl"
    rows = demonstrations(job.seed, count, NOISE[job.noise])
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shared: dict[str, Any] = {
        "model": str(folder / "start" if job.method == "sft" else _sft_model(folder, job)),
        "data": (str(data),),
        "output": str(place / "run"),
        "eval_share": 0.2,
        "max_length": 32,
        "per_device_train_batch_size": 16,
        "logging_steps": 1000,
        "save_steps": 100_000,
        "bf16": False,
        "seed": job.seed,
    }
    if job.method == "sft":
        return SFTConfig(**shared, learning_rate=1e-3, num_train_epochs=2 if job.amount == "few" else 1)
    setting = SETTINGS[job.method][job.setting or 0]
    if job.method == "sft-more":
        return SFTConfig(**shared, **setting, max_steps=size.steps)
    staged = (
        shared
        | {"max_new_tokens": LONGEST_ANSWER, "samples_per_prompt": 1, "sample_batch_size": 256, "slices": "all"}
        | setting
    )
    if job.method == "spin":
        return SPINConfig(**staged, steps_per_stage=size.steps)
    if job.method.startswith("irft"):
        link: Any = job.method.removeprefix("irft-")
        config = IRFTConfig(**staged, link=link)
        return replace(config, steps_per_stage=max(size.steps // config.stages, 1))
    return _rft(job, size, staged, place)


def _rft(job: Job, size: Size, staged: dict[str, Any], place: Path) -> RFTConfig:
    """`rft-prompts` also has prompts without demonstrations, from the same pool."""
    prompts: tuple[str, ...] = ()
    if job.method == "rft-prompts":
        file = place / "prompts.txt"
        # Prompts of the pool beyond those with demonstrations; a seed draws them in one order.
        file.write_text("\n".join(draw_prompts(job.seed, "demonstrations", 2 * size.many)[size.many :]))
        prompts = (str(file),)
    config = RFTConfig(
        **staged,
        prompts=prompts,
        reward_learning_rate=3e-4,
        reward_steps=size.steps,
        reward_eval_steps=4,
        prompts_per_batch=16,
        num_generations=4,
        stop_reward_margin=0,
        force=True,
    )
    return replace(config, policy_batches=max(size.steps // config.stages, 1))


def _sft_model(folder: Path, job: Job) -> Path:
    return folder / f"sft-{job.noise}-{job.amount}-{job.seed}"


def _part(seed: int) -> str:
    return "validation" if seed == TUNING_SEED else "test"


if __name__ == "__main__":
    main()
