"""Responses drawn outside of a run: any sampler, and a journal by which an interrupted command goes on."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from helpers.command import call
from helpers.killing import Killed, die_at, die_at_call
from helpers.rewards import ODD_TOKENS, PROMPTS, Counting, save_reward
from helpers.tiny import save_tiny

from demotune import DemotuneError
from demotune.common.journals import read_journal
from demotune.config.drawing import GenerationOptions
from demotune.records import Response
from demotune.rewards.answer_journal import AnswerJournal, journal_beside
from demotune.rewards.answers import Answer, BestOf, answer
from demotune.sampling import SamplingOptions

OPTIONS = GenerationOptions(max_new_tokens=6)
END = 2


class Scripted:
    """A sampler whose response to stream n is n + 1 tokens and the end; it may stop after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.streams: list[int] = []
        self._stop_after = stop_after

    def draw(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[int], seed: int, options: SamplingOptions
    ) -> Iterator[tuple[int, Response]]:
        for stream in reversed(streams):
            if len(self.streams) == self._stop_after:
                raise Killed
            self.streams.append(stream)
            yield stream, Response((*[40] * (stream + 1), END), True)

    def ready(self, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> AbstractContextManager[None]:
        return nullcontext()

    def keeps_logps(self, options: SamplingOptions) -> bool:
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    save_tiny(folder / "start")
    save_reward(folder / "reward")
    return folder


def given_by(place: Path, sampler: Scripted, journal: Path | None, count: int = 2) -> list[Answer]:
    best_of = BestOf(count, Counting([40]))
    return answer(str(place / "start"), PROMPTS, OPTIONS, best_of=best_of, sampler=sampler, journal=journal)


def test_any_sampler_draws_and_the_reward_of_the_first_response_is_kept(place: Path) -> None:
    """The three first responses have 1, 2, 3 tokens that count, the second ones 4, 5, 6."""
    sampler = Scripted()
    found = given_by(place, sampler, None)
    assert sampler.streams == [5, 4, 3, 2, 1, 0]
    assert [(one.first_reward, one.reward) for one in found] == [(1, 4), (2, 5), (3, 6)]


def test_no_response_is_drawn_twice(place: Path, tmp_path: Path) -> None:
    """Stopped after each number of responses; what was drawn is kept, in whatever order it came."""
    expected = given_by(place, Scripted(), None)
    for number in range(6):
        journal = tmp_path / f"after-{number}"
        first, second = Scripted(stop_after=number), Scripted()
        with pytest.raises(Killed):
            given_by(place, first, journal)
        assert given_by(place, second, journal) == expected
        assert sorted(first.streams + second.streams) == [0, 1, 2, 3, 4, 5]
    none_left = Scripted()
    assert given_by(place, none_left, journal) == expected
    assert none_left.streams == []


def test_more_responses_go_on_from_fewer(place: Path, tmp_path: Path) -> None:
    given_by(place, Scripted(), tmp_path / "journal", count=1)
    more = Scripted()
    found = given_by(place, more, tmp_path / "journal", count=3)
    assert sorted(more.streams) == [3, 4, 5, 6, 7, 8]
    assert found == given_by(place, Scripted(), None, count=3)


def test_other_settings_are_refused(place: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    answer(str(place / "start"), PROMPTS, OPTIONS, sampler=Scripted(), journal=journal)
    other = GenerationOptions(max_new_tokens=6, temperature=0.5, seed=1)
    with pytest.raises(DemotuneError, match=r"other settings \(temperature was 1.0, is 0.5; seed was 42, is 1\); give"):
        answer(str(place / "start"), PROMPTS, other, sampler=Scripted(), journal=journal)
    with pytest.raises(DemotuneError, match=r"\(prompts was"):
        answer(str(place / "start"), PROMPTS[:2], OPTIONS, sampler=Scripted(), journal=journal)


def test_a_journal_without_its_first_line_is_refused(place: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    answer(str(place / "start"), PROMPTS, OPTIONS, sampler=Scripted(), journal=journal)
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(DemotuneError, match="its first line is not there"):
        answer(str(place / "start"), PROMPTS, OPTIONS, sampler=Scripted(), journal=journal)


def test_killed_command_goes_on_to_the_same_file(place: Path, tmp_path: Path) -> None:
    """At every moment at which something becomes durable."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"say {number}\n" for number in range(20)), encoding="utf-8")
    arguments = ["sample", "--model", str(place / "start"), "--prompts", str(prompts), "--max-new-tokens", "8",
                 "--best-of", "3", "--reward", str(place / "reward")]  # fmt: skip

    def write(name: str) -> Path:
        output = tmp_path / name
        assert call(*arguments, "--output", str(output))[0] == 0
        return output

    expected = write("uninterrupted").read_bytes()
    assert len(expected.splitlines()) == 20
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        write("counted")
        moments = count()
    assert moments > 5
    kept = []
    for number in range(1, moments + 1):
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                write(f"killed-{number}")
        output = tmp_path / f"killed-{number}"
        journal = journal_beside(output)
        kept.append(len({row.get("row") for row in read_journal(journal)}) if journal.exists() else 0)
        assert write(f"killed-{number}").read_bytes() == expected
        assert not journal.exists()
    assert max(kept) == 61  # the settings, and all responses


def test_a_command_that_ends_early_leaves_no_folder_behind(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that ends well; the log of a server that was started would stay."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answer(str(place / "start"), PROMPTS, OPTIONS)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(AnswerJournal, "append_in_turn", die_at_call(AnswerJournal.append_in_turn, 1))
    with pytest.raises(Killed):
        answer(str(place / "start"), PROMPTS, OPTIONS, journal=tmp_path / "journal")
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []


def test_a_changed_command_says_what_was_interrupted(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    arguments = ["sample", "--model", str(place / "start"), "--prompt", "say one", "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        die_at(2, patch)
        with pytest.raises(Killed):
            call(*arguments, "--max-new-tokens", "4")
    code, shown = call(*arguments, "--max-new-tokens", "5")
    assert (code, "max_new_tokens was 4, is 5" in shown) == (1, True), shown
    assert call(*arguments, "--max-new-tokens", "4")[0] == 0
    (row,) = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert row["prompt"][0]["content"] == "say one"


def test_greedy_is_refused(place: Path) -> None:
    with pytest.raises(DemotuneError, match="best of 2 needs responses that differ"):
        answer(str(place / "start"), PROMPTS, GenerationOptions(temperature=0), best_of=BestOf(2, Counting(ODD_TOKENS)))
