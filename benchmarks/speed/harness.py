"""Contestants in turn, each in a process of its own: A B C, A B C, ...; what they took, side by side.

A machine's speed drifts by a fifth within minutes, so only numbers of one turn are compared, and ratios are medians
over turns. A process of its own gives each contestant its own peak memory and its own allocator settings.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent.parent / "results"
CEILING = "ceiling"
TUNED = {
    # glibc: nothing by mmap, nothing given back, the heap grows by 64 MiB.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


@dataclass
class Watch:
    """Seconds by phase, and facts that a contestant wants kept beside them."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of this block to the phase."""
        _wait_for_device()
        started = time.monotonic()
        yield
        _wait_for_device()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


Row = Mapping[str, Any]
"""What one contestant took in one turn, or how it failed."""
Contestant = Callable[[Any, Watch], None]
"""Does the work and fills the watch: seconds and tokens by phase."""


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_gib() -> float:
    """Highest resident memory of this process so far; on a GPU the highest that torch held there.

    Linux's own mark of this process: `ru_maxrss` is inherited from a larger parent.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line.split() for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(marks[0][1]) * 1024 / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def forget_peak_memory() -> bool:
    """Count peak memory from here on; False where the system does not offer it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def work_as_told(contestants: Mapping[str, Contestant], load: Callable[[Path], Any]) -> bool:
    """In a worker (`--worker NAME WORK RESULT`) do that contestant's work and write its row; False elsewhere."""
    if sys.argv[1:2] != ["--worker"]:
        return False
    name, work_file, result_file = sys.argv[2:5]
    watch = Watch()
    started = time.monotonic()
    contestants[name](load(Path(work_file)), watch)
    row = {
        "seconds": watch.seconds,
        "tokens": watch.tokens,
        "process_seconds": time.monotonic() - started,
        "peak_memory_gib": peak_memory_gib(),
        **watch.facts,
    }
    Path(result_file).write_text(json.dumps(row), encoding="utf-8")
    return True


def take_turns(script: str, names: Sequence[str], repeats: int, save_work: Callable[[Path], None]) -> list[dict]:
    """Run every contestant `repeats` times, in turn; one row each. One that fails is named and left out of its turn."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        work_file = Path(scratch) / "work.json"
        save_work(work_file)
        for turn in range(repeats):
            for name in names:
                row = {"turn": turn, "contestant": name, **_one(script, name, work_file, Path(scratch) / "row.json")}
                rows.append(row)
                print(f"turn {turn + 1} of {repeats}: {_line(row)}", flush=True)
    return rows


def _one(script: str, name: str, work_file: Path, result_file: Path) -> dict[str, Any]:
    """One contestant's row, from a process of its own in a folder of its own."""
    result_file.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if name.endswith("-tuned"):
        environment |= TUNED
    with tempfile.TemporaryDirectory() as folder:
        environment["HF_DATASETS_CACHE"] = folder  # TRL keeps reference scores there; each turn computes its own
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
        command = [sys.executable, str(Path(script).resolve()), "--worker", name, str(work_file), str(result_file)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        print(f"{name} failed: {why}")
        return {"failed": why.partition(":")[0]}  # results keep no paths
    return json.loads(result_file.read_text(encoding="utf-8"))


def _line(row: Row) -> str:
    if "failed" in row:
        return f"{row['contestant']}: no result"
    if row["contestant"] == CEILING:
        return f"matrix products at {row['gflops']:.0f} GFLOP/s"
    parts = "  ".join(f"{phase} {seconds:.1f}" for phase, seconds in row["seconds"].items())
    return f"{row['contestant']}: {sum(row['seconds'].values()):.1f} s ({parts}), {row['peak_memory_gib']:.2f} GiB"


def median_of(rows: Sequence[Row], name: str, value: Callable[[Row], float]) -> float | None:
    """Median over the turns of one contestant; None without any."""
    found = [value(row) for row in rows if row["contestant"] == name and "failed" not in row]
    return statistics.median(found) if found else None


def ratio(rows: Sequence[Row], one: str, other: str, value: Callable[[Row], float]) -> float | None:
    """Median over turns of one contestant's number divided by the other's in the same turn; None without any."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["contestant"] in (one, other) and "failed" not in row:
            found.setdefault(row["turn"], {})[row["contestant"]] = value(row)
    quotients = [both[one] / both[other] for both in found.values() if {one, other} <= both.keys()]
    return statistics.median(quotients) if quotients else None


def finished(rows: Sequence[Row]) -> list[str]:
    """Contestants that have a number in at least one turn, in order."""
    return [*dict.fromkeys(row["contestant"] for row in rows if "failed" not in row and row["contestant"] != CEILING)]


def whole_seconds(row: Row) -> float:
    return float(sum(row["seconds"].values()))


def shown(value: float | None, form: str) -> str:
    """A number as `form` says, a dash where there is none."""
    return "-" if value is None else format(value, form)


def show_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table in columns, the first to the left and the others to the right."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    for line in (head, *lines):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells))


def measure_ceiling(bf16: bool, seconds: float = 2.0) -> float:
    """GFLOP/s of the fastest of a few matrix products in this precision: what no contestant can exceed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if bf16 else torch.float32
    sizes = (4096, 8192) if device.type == "cuda" else (1024, 2048)
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        left @ right
        _wait_for_device()
        ends = time.monotonic() + seconds / len(sizes)
        while time.monotonic() < ends:
            started = time.monotonic()
            left @ right
            _wait_for_device()
            best = max(best, 2 * size**3 / (time.monotonic() - started) / 1e9)
    return best


def machine() -> dict[str, str]:
    """Processor and what of it matrix products use; no names of this machine."""
    from demotune.common.machine import hardware  # noqa: PLC0415 - a contestant's process need not import it

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return hardware() | {"processor": names[0] if names else "unknown"}
