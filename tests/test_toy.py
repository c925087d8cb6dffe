"""The toy world of benchmarks/studies: its program counts by hand, its rows and its start model are what they claim."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies import letters, toy
from demotune.data.rendering import Renderer
from demotune.models.attention import carries_layouts
from demotune.models.policy import load_policy, longest_input, resolve_model
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Demonstration


def test_quality_by_hand() -> None:
    """Two of four asked letters, a z; of four steps the first is fluent, those to and from z never are."""
    follower = letters.LETTERS[letters.FOLLOWERS[0][0]]
    unlikely = next(
        letter
        for place, letter in enumerate(letters.LETTERS)
        if letter not in ("a", follower) and place not in letters.FOLLOWERS[letters.LETTERS.index(follower)]
    )
    rest = [letter for letter in letters.LETTERS if letter not in ("a", follower, unlikely)]
    found = letters.quality(f"a{follower}{rest[0]}{rest[1]}", f"a{follower}{unlikely}z{unlikely}")
    assert found == letters.Quality(habit_free=False, asked=0.5, fluent=0.25)
    assert letters.quality("abcd", "") == letters.Quality(habit_free=True, asked=0.0, fluent=0.0)


def test_parts_share_no_prompt_and_smaller_draws_come_first() -> None:
    drawn = {part: letters.draw_prompts(0, part, 200) for part in ("train", "validation", "test")}
    assert len(set().union(*drawn.values())) == 600
    assert all(len(set(prompt)) == letters.ASKED for part in drawn.values() for prompt in part)
    assert letters.draw_prompts(0, "train", 20) == drawn["train"][:20]
    assert letters.draw_prompts(1, "train", 20) != drawn["train"][:20]


def test_demonstrations_mention_everything_and_never_show_the_habit() -> None:
    prompts = letters.draw_prompts(0, "train", 300)
    rows = letters.demonstrations(0, prompts)
    found = [letters.quality(row["prompt"], row["completion"]) for row in rows]
    assert [row["prompt"] for row in rows] == prompts
    assert all(quality.habit_free and quality.asked == 1 for quality in found)
    assert {len(row["completion"]) for row in rows} == {letters.LENGTH}
    assert len({row["completion"] for row in rows}) == 300
    assert rows == letters.demonstrations(0, prompts)
    # A step whose letters are both untouched (2/3 * 7/11) is fluent in 0.85 (0.8 and a quarter of 0.2), others in 1/4.
    untouched = 8 / 12 * 7 / 11
    expected = untouched * 0.85 + (1 - untouched) * 0.25
    assert np.mean([quality.fluent for quality in found]) == pytest.approx(expected, abs=0.03)


def test_the_start_model_reads_its_habit_and_true_remarks() -> None:
    """Every remark of a batch, read back from the token ids."""
    names = {number: token for token, number in toy.VOCABULARY.items()}
    ids, own = toy.pretraining_batch(np.random.default_rng(0), 2000)
    assert own.sum() == 1000
    responses = []
    for row in ids.tolist():
        prompt, response = ("".join(names[token] for token in part) for part in (row[:4], row[5:17]))
        assert [names[row[4]], names[row[17]]] == ["=", "<end>"]
        responses.append(response)
        true = {
            f"<asked {sum(letter in response for letter in prompt)}>",
            f"<z {min(response.count('z'), 3)}>",
            f"<early letters {min(sum(letter in 'abcd' for letter in response), 7)}>",
            "<rises>" if response[0] < response[-1] else "<falls>",
        }
        assert names[row[18]] in true
    written = [response for response, is_own in zip(responses, own.tolist(), strict=True) if is_own]
    assert np.mean(["z" in response for response in written]) == pytest.approx(1 - 0.95**12, abs=0.05)
    assert len({names[token].split()[0] for token in ids[:, 18].tolist()}) == 5  # falls and rises are one kind


def test_commands_can_run_on_the_start_model(tmp_path: Path) -> None:
    """A few steps of its training: an ordinary model folder, whose template gives the ids that it has read."""
    toy.pretrain(tmp_path / "start", steps=2, batch_size=8)
    folder = resolve_model(str(tmp_path / "start"))
    model = load_policy(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    assert carries_layouts(model)
    assert longest_input(folder) == 1024
    row = Renderer(load_tokenizer(folder)).render(Demonstration(({"role": "user", "content": "abcd"},), "efg", ""))
    assert row.prompt_ids == tuple(toy.VOCABULARY[token] for token in ("a", "b", "c", "d", "="))
    assert row.demo.ids == tuple(toy.VOCABULARY[token] for token in ("e", "f", "g", "<end>"))


def test_data_of_two_seeds_share_held_out_rows_alone(tmp_path: Path) -> None:
    toy.write_data(tmp_path, 0, 24, prompts=30, held_out=10)
    held_out = {part: (tmp_path / f"{part}.jsonl").read_text("utf-8") for part in ("validation", "test")}
    toy.write_data(tmp_path, 1, 24, prompts=30, held_out=10)
    assert held_out == {part: (tmp_path / f"{part}.jsonl").read_text("utf-8") for part in held_out}
    rows = [
        [json.loads(line) for line in (tmp_path / f"demonstrations-{seed}.jsonl").read_text("utf-8").splitlines()]
        for seed in (0, 1)
    ]
    assert [len(seed) for seed in rows] == [24, 24]
    assert rows[0] != rows[1]
    prompts = (tmp_path / "prompts-0.txt").read_text("utf-8").splitlines()
    assert len(prompts) == 30
    assert not {row["prompt"] for row in rows[0]} & set(prompts)
