"""The yardstick of benchmarks/stage.py: tokens, operations and ratios, worked out by hand."""

from pathlib import Path

import pytest
from helpers.tiny import save_tiny

from benchmarks.speed.harness import median_of, ratio, whole_seconds
from benchmarks.speed.work import Size, Work


def a_work(folder: Path, *, lora: bool = False) -> Work:
    """Prompts of 3 and 5 tokens, demonstrations of 2 and 1, samples of 4; two epochs of one step."""
    return Work(
        model=save_tiny(folder),
        prompts=[[7] * 3, [7] * 5],
        demos=[[8] * 2, [8]],
        texts=[],
        new_tokens=4,
        batch=2,
        epochs=2,
        bf16=False,
        lora=lora,
    )


def test_tokens_count_a_prompt_for_both_sides_of_its_pair(tmp_path: Path) -> None:
    """Drawn 2 * 4; pairs (3 + 2) + (3 + 4) + (5 + 1) + (5 + 4) = 27, twice in training."""
    assert a_work(tmp_path).tokens() == {"sample": 8, "score": 27, "train": 54}
    assert a_work(tmp_path).steps == 2


def test_size_counts_the_body_without_embedding_and_the_head(tmp_path: Path) -> None:
    """Two layers: attention 16*16 + 2*16*8 + 16*16, feed-forward 3*16*32, two norms of 16; a last norm of 16."""
    work = a_work(tmp_path)
    size = Size.of(Path(work.model))
    assert size.body == 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16
    assert size.head % 16 == 0


@pytest.mark.parametrize(("lora", "passes"), [(False, 3), (True, 2)])
def test_useful_flops(tmp_path: Path, lora: bool, passes: int) -> None:
    """Sampling reads 8 prompt tokens and 2 * 3 drawn ones; scoring has 27 tokens, 11 of them responses."""
    work = a_work(tmp_path, lora=lora)
    size = Size.of(Path(work.model))
    score = 2 * size.body * 27 + 2 * size.head * 11
    assert work.flops() == {
        "sample": 2 * size.body * (8 + 6) + 2 * size.head * 8,
        "score": score,
        "train": passes * 2 * score,
    }
    assert work.least_flops()["score"] == 2 * size.body * 19 + 2 * size.head * 11  # 8 prompt tokens once


def test_ratios_are_taken_within_a_turn() -> None:
    """Turns at 1/2, 2/2 and 9/3: the median is 1; a contestant that failed in a turn is left out of it."""
    seconds = {("ours", 0): 1, ("theirs", 0): 2, ("ours", 1): 2, ("theirs", 1): 2, ("ours", 2): 9, ("theirs", 2): 3}
    rows = [
        {"contestant": name, "turn": turn, "seconds": {"train": float(took)}} for (name, turn), took in seconds.items()
    ]
    rows.append({"contestant": "theirs", "turn": 3, "failed": "MemoryError"})
    assert ratio(rows, "ours", "theirs", whole_seconds) == 1.0
    assert median_of(rows, "ours", whole_seconds) == 2.0
    assert ratio(rows, "ours", "nobody", whole_seconds) is None
