"""One IRFT stage (sample, score the reference, train) by demotune, by TRL and by a naive loop: what each takes.

    python benchmarks/stage.py --model MODEL --data GSM8K.jsonl.gz            # the whole comparison, three turns
    python benchmarks/stage.py --model MODEL --quick                          # shipped rows, a few minutes on two cores
    python benchmarks/stage.py --model MODEL --only demotune trl naive --repeats 5
    python benchmarks/stage.py --model MODEL --only samplers                  # samplers alone, even and uneven lengths

Same prompts, same demonstrations, same number of tokens drawn, scored and trained, in the same precision; a contestant
whose tokens differ is an error. Each works in a process of its own, in turn with the others. Contestants are described
in speed/peers.py and speed/ours.py, the formula of useful FLOPs in speed/work.py. Loading, imports and whatever is
written to disk are timed for `demotune-run` alone, which is the whole command. GFLOP/s and `of ceiling` count useful
FLOPs; work that a contestant saves counts as done, so `least` says how fast the work could be at the ceiling.

Results go to benchmarks/results/stage.json (a quick run keeps them only with --results FILE).
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speed import ours, peers
from speed.harness import (
    CEILING,
    RESULTS,
    Watch,
    finished,
    machine,
    measure_ceiling,
    median_of,
    ratio,
    show_table,
    shown,
    take_turns,
    whole_seconds,
    work_as_told,
)
from speed.work import PHASES, Work, make_work

from demotune.common.files import write_json
from demotune.common.machine import has_fast_bf16, package_versions

STOP = 0
"""Any token serves as the end of uneven responses."""


def ceiling(work: Work, watch: Watch) -> None:
    watch.facts["gflops"] = measure_ceiling(work.bf16)


STAGES = {
    "demotune": ours.demotune_stage,
    "demotune-run": ours.demotune_run,
    "trl": peers.trl_stage,
    "trl-tuned": peers.trl_stage,
    "trl-online": peers.trl_online_stage,
    "naive": peers.naive_stage,
}
SAMPLERS = {
    "sample-demotune": ours.demotune_sampler,
    "sample-generate-8": peers.generate_sampler(8),
    "sample-generate-16": peers.generate_sampler(16),
    "sample-generate-64": peers.generate_sampler(64),
}
UNEVEN = {
    # Each token ends its response with a chance of 1 in 36, so that lengths spread from 1 to the limit.
    "uneven-demotune": partial(ours.demotune_sampler, stop_ids=frozenset({STOP})),
    "uneven-generate-16": peers.generate_sampler(16, stop_id=STOP),
}
CONTESTANTS = {**STAGES, **SAMPLERS, **UNEVEN, CEILING: ceiling}
GROUPS = {"stages": tuple(STAGES), "samplers": (*SAMPLERS, *UNEVEN)}
QUICK = ("demotune", "trl", "naive")


def main() -> None:
    if work_as_told(CONTESTANTS, Work.load):
        return
    options = _parse()
    work = _work(options)
    names = [CEILING, *options.only]
    rows = take_turns(__file__, names, options.repeats, work.save)
    check_tokens(rows, work)
    summary = summarise(rows, work)
    show(summary, work)
    if results := options.results or (None if options.quick else RESULTS / "stage.json"):
        kept = {"config": work.described() | {"repeats": options.repeats, "quick": options.quick}}
        write_json(
            results, kept | {"versions": package_versions(), "machine": machine(), "summary": summary, "rows": rows}
        )
        print(f"kept in {results}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, a hub id or a GGUF file; SmolLM2-135M in our results")
    parser.add_argument("--data", help="rows to use, GSM8K's (question, answer) for example; shipped rows without it")
    parser.add_argument("--columns", help="columns of --data, as prompt=...,response=...")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join((*GROUPS, *CONTESTANTS))}")
    parser.add_argument("--repeats", type=int, help="turns; 3, quick 1")
    parser.add_argument("--quick", action="store_true", help="8 rows, 2 steps, three contestants")
    parser.add_argument("--lora", action="store_true", help="train an adapter on all linear layers in place of weights")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="bf16 where the hardware has it, if not given")
    parser.add_argument("--rows", type=int, help="prompts; 64, quick 8")
    parser.add_argument("--batch", type=int, help="pairs of a step; 8, quick 4")
    parser.add_argument("--epochs", type=int, help="passes over the pairs; 2, quick 1")
    parser.add_argument("--new-tokens", type=int, help="tokens of every sample; 64, quick 32")
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="64 127; shipped rows 1 127",
    )
    parser.add_argument("--demo-tokens", type=int, default=64, help="demonstrations are cut to so many tokens")
    parser.add_argument("--results", type=Path, help="where to keep results")
    options = parser.parse_args()
    options.only = [name for one in options.only or ["all"] for name in _named(one, options.quick)]
    if unknown := [name for name in options.only if name not in CONTESTANTS]:
        parser.error(f"no contestant {', '.join(unknown)}; there are {', '.join((*GROUPS, *CONTESTANTS))}")
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def _named(name: str, quick: bool) -> tuple[str, ...]:
    everything = QUICK if quick else (*STAGES, *SAMPLERS, *UNEVEN)
    return everything if name == "all" else GROUPS.get(name, (name,))


def _work(options: argparse.Namespace) -> Work:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = has_fast_bf16(device) if options.precision is None else options.precision == "bf16"
    rows, batch, epochs, new_tokens = (8, 4, 1, 32) if options.quick else (64, 8, 2, 64)
    return make_work(
        options.model,
        options.data,
        options.columns,
        rows=options.rows or rows,
        prompt_tokens=tuple(options.prompt_tokens or (64 if options.data else 1, 127)),
        demo_tokens=options.demo_tokens,
        new_tokens=options.new_tokens or new_tokens,
        batch=options.batch or batch,
        epochs=options.epochs or epochs,
        bf16=bf16,
        lora=options.lora,
    )


def check_tokens(rows: list[dict[str, Any]], work: Work) -> None:
    """Raise SystemExit unless everybody drew, scored and trained the same number of tokens; uneven lengths excepted."""
    expected = work.tokens()
    for row in rows:
        name = row["contestant"]
        if "failed" in row or name == CEILING or name in UNEVEN:
            continue
        if wrong := {phase: count for phase, count in row["tokens"].items() if count != expected[phase]}:
            raise SystemExit(f"{name} worked on {wrong} tokens; the work is {expected}: the comparison is not fair")


def summarise(rows: list[dict[str, Any]], work: Work) -> dict[str, Any]:
    """Medians of each contestant, and ratios of demotune to each of its peers, turn by turn."""
    flops, top = work.flops(), median_of(rows, CEILING, lambda row: row["gflops"])
    least = sum(work.least_flops().values())
    found: dict[str, Any] = {"ceiling_gflops": top, "least_seconds": top and least / top / 1e9}
    for name in finished(rows):
        own = "demotune" if name in STAGES else f"{name.partition('-')[0]}-demotune"
        seconds = median_of(rows, name, whole_seconds)
        useful = sum(flops[phase] for phase in (PHASES if name in STAGES else ("sample",))) / 1e9
        gflops = None if name in UNEVEN else useful / seconds  # uneven lengths are drawn: nobody knows the work before
        found[name] = {
            "seconds": seconds,
            "phases": {
                phase: median_of(rows, name, lambda row, phase=phase: row["seconds"].get(phase, 0.0))
                for phase in PHASES
            },
            "tokens_per_second": median_of(rows, name, _tokens_per_second),
            "gflops": gflops,
            "share_of_ceiling": gflops and top and gflops / top,
            "peak_memory_gib": median_of(rows, name, lambda row: row["peak_memory_gib"]),
            "demotune_seconds_per_token_ratio": ratio(rows, own, name, lambda row: 1 / _tokens_per_second(row)),
            "demotune_memory_ratio": ratio(rows, own, name, lambda row: row["peak_memory_gib"]),
        }
    return found


def _tokens_per_second(row: dict[str, Any]) -> float:
    """All tokens that were drawn, scored and trained, by the seconds of all phases."""
    return sum(row["tokens"].values()) / whole_seconds(row)


def show(summary: dict[str, Any], work: Work) -> None:
    """The comparison as a table."""
    print()
    described = work.described()
    print(
        f"{described['rows']} prompts of {described['prompt_tokens']} tokens, demonstrations of "
        f"{described['demo_tokens']}, samples of {work.new_tokens}; {work.steps} steps of {work.batch} pairs, "
        f"{'LoRA' if work.lora else 'all weights'}, {'bf16 autocast' if work.bf16 else 'float32'}"
    )
    print(
        f"matrix products {shown(summary['ceiling_gflops'], '.0f')} GFLOP/s; at that rate, each prompt of a pair "
        f"computed once, the stage takes at least {shown(summary['least_seconds'], '.1f')} s\n"
    )
    head = ("", "seconds", *PHASES, "tokens/s", "GFLOP/s", "of ceiling", "GiB", "demotune/it", "memory")
    lines = [
        (
            name,
            shown(one["seconds"], ".1f"),
            *(shown(one["phases"][phase], ".1f") for phase in PHASES),
            shown(one["tokens_per_second"], ".0f"),
            shown(one["gflops"], ".1f"),
            shown(one["share_of_ceiling"], ".0%"),
            shown(one["peak_memory_gib"], ".2f"),
            shown(one["demotune_seconds_per_token_ratio"], ".2f"),
            shown(one["demotune_memory_ratio"], ".2f"),
        )
        for name, one in summary.items()
        if isinstance(one, dict)
    ]
    show_table(head, lines)


if __name__ == "__main__":
    main()
