"""`demotune advise` on a tiny model: same rows as a run, same seed same advice, resumed, commands that can be run."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from helpers.command import call
from helpers.tiny import save_tiny, write_rows

import demotune
from demotune import DemotuneError
from demotune.advice import advise as advising
from demotune.advice.advise import advise, save_reward
from demotune.advice.measure import draw, measure
from demotune.advice.measurements import Action, AdviceRecord
from demotune.advice.next_command import next_command, other_command
from demotune.advice.probe import attach_probe
from demotune.advice.rules import RULES
from demotune.advice.subject import prepare_subject, spread
from demotune.cli.main import app
from demotune.common.files import read_rows
from demotune.common.json_records import read_record
from demotune.config.commands import AdviseConfig
from demotune.config.methods import IRFTConfig
from demotune.rewards.load import load_reward
from demotune.runs.folder import RunFolder
from demotune.sampling import InProcessSampler
from demotune.training.prepare import prepare_run

SMALL: dict[str, Any] = {"max_length": 128, "max_new_tokens": 6, "eval_share": 0.3, "bf16": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advise")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", 40)
    (folder / "more.txt").write_text("".join(f"tell {number}\n" for number in range(8)), encoding="utf-8")
    return folder


def config_of(place: Path, **changes: Any) -> AdviseConfig:
    same = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "prompts": (str(place / "more.txt"),)}
    return AdviseConfig(**same | SMALL | changes)


@pytest.fixture(scope="module")
def advised(place: Path) -> AdviceRecord:
    return advise(config_of(place, output=place / "advice"))


def test_everything_is_measured_and_kept(place: Path, advised: AdviceRecord) -> None:
    found = advised.measurements
    assert (found.demonstrations, found.train_rows) == (found.train_rows, 40 - found.heldout_rows)
    assert found.heldout_rows >= 5
    assert found.prompts is not None
    assert found.prompts.count == 8
    assert found.prompts.difference is not None
    assert found.reward is not None
    assert found.reward.headroom.prompts == found.heldout_prompts
    assert found.likelihood.probe_rows == found.train_rows
    assert found.likelihood.fall.low > 0  # random weights learn from any rows
    assert read_record(AdviceRecord, place / "advice" / "advice.json") == advised
    assert {file.name for file in (place / "advice").iterdir()} <= {
        "advice.json", "samples.jsonl.gz", "quarantine.jsonl", "reward",
    }  # fmt: skip


def test_samples_are_kept_with_their_rewards(place: Path, advised: AdviceRecord) -> None:
    rows = read_rows(place / "advice" / "samples.jsonl.gz")
    count = advised.measurements.heldout_rows
    heldout = [row for row in rows if row["source"] == "heldout"]
    assert len(rows) == 5 * advised.measurements.train_rows + 6 * count + 8
    assert [row["kind"] for row in heldout[:6]] == ["demonstration", *["sample"] * 4, "greedy"]
    demos = [row["reward"] for row in heldout if row["kind"] == "demonstration"]
    samples = [row["reward"] for row in heldout if row["kind"] == "sample"]
    assert sum(demos) / count > sum(samples) / len(samples)


def test_without_output_the_advice_is_the_same(place: Path, advised: AdviceRecord) -> None:
    again = demotune.advise(place / "start", place / "rows.jsonl", prompts=place / "more.txt", **SMALL)
    assert again.measurements == advised.measurements


def test_rows_are_divided_as_a_run_divides_them(place: Path) -> None:
    config = config_of(place, max_train_rows=7)
    subject = prepare_subject(config, None)
    run = IRFTConfig(
        model=config.model, data=config.data, output=str(place / "run"), max_length=128, eval_share=0.3, bf16=False
    )
    setup = prepare_run(run, RunFolder(place / "run"), ())
    assert subject.heldout == tuple(setup.heldout)
    assert subject.demonstrations == len(setup.train)
    assert len(subject.train) == 7
    assert set(subject.train) <= set(setup.train)


def test_rows_are_spread_evenly() -> None:
    assert spread((0, 1, 2, 3, 4, 5, 6), 3) == (0, 2, 4)
    assert spread((0, 1), 3) == (0, 1)
    assert spread((), 3) == ()


def test_an_interrupted_drawing_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(place)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = draw(prepare_subject(config, None), tmp_path / "whole")
    drawn: list[int] = []
    real = InProcessSampler.draw

    def counted(self: InProcessSampler, prompts: Any, streams: Any, seed: int, options: Any) -> Any:
        for number, response in real(self, prompts, streams, seed, options):
            if len(drawn) == 50:
                drawn.append(-1)
                raise KeyboardInterrupt
            drawn.append(number)
            yield number, response

    monkeypatch.setattr(InProcessSampler, "draw", counted)
    with pytest.raises(KeyboardInterrupt):
        draw(prepare_subject(config, None), tmp_path / "parts")
    assert draw(prepare_subject(config, None), tmp_path / "parts") == whole
    subject = prepare_subject(config, None)
    responses = 4 * (len(subject.train) + len(subject.heldout)) + len(subject.heldout) + 8
    assert len(drawn) - 1 == responses  # none twice


def test_the_probe_leaves_the_model_as_it_was(place: Path) -> None:
    subject = prepare_subject(config_of(place), None)
    before = {name: weight.clone() for name, weight in subject.policy.state_dict().items()}
    probe, rows = attach_probe(subject)
    assert rows == len(subject.train)
    probe.unload()  # type: ignore[operator]
    after = subject.policy.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_kept_reward_is_the_measured_one(place: Path, tmp_path: Path) -> None:
    subject = prepare_subject(config_of(place), None)
    found = measure(subject, tmp_path)
    assert found.reward is not None
    expected = found.reward.score(np.stack([*found.states.table.values()]))
    save_reward(subject, found.reward, tmp_path / "reward")
    given = load_reward(tmp_path / "reward", bf16=False).rewards_of([*found.states.table])
    assert given == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


ACTIONS: list[Action] = ["sft", "best-of-n", "irft", "rft", "lower temperature", "nothing"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("output", [None, Path("my advice")])
def test_commands_take_their_flags_and_keep_what_was_given(action: Action, output: Path | None) -> None:
    config = AdviseConfig(
        model="m", data=("a b.jsonl", "c.jsonl"), prompts=("p.txt",), output=output, template="Q: {prompt}", seed=7
    )
    root: Any = typer.main.get_command(app)
    other = other_command(action, config)
    for command in [*next_command(action, config).split(" && "), *([] if other is None else [other])]:
        words = shlex.split(command)
        assert words[0] == "demotune"
        one = root.commands[words[1]]
        parsed = one.make_context(words[1], words[2:]).params
        assert parsed["model"] == "m"
        assert parsed["template"] == "Q: {prompt}"
        assert parsed["seed"] == 7
        if words[1] != "sample":
            assert parsed["data"][:2] == ["a b.jsonl", "c.jsonl"]


def test_more_rows_are_asked_for_where_held_out_rows_are_from() -> None:
    config = AdviseConfig(model="m", data="d.jsonl")
    assert next_command("nothing", config) == "demotune advise --model m --data d.jsonl --data MORE_ROWS.jsonl"
    apart = dataclasses.replace(config, eval_data=("held.jsonl",))
    expected = "demotune advise --model m --data d.jsonl --eval-data held.jsonl --eval-data MORE_ROWS.jsonl"
    assert next_command("nothing", apart) == expected


def test_a_dear_best_of_n_is_asked_for_with_its_reward() -> None:
    config = AdviseConfig(model="m", data="d.jsonl", output="advice", samples_per_prompt=8)
    asked = "demotune sample --model m --best-of 8 --reward advice/reward --prompt 'YOUR PROMPT'"
    assert next_command("best-of-n", config) == asked
    without = dataclasses.replace(config, output=None)
    first = "demotune advise --model m --data d.jsonl --samples-per-prompt 8 --output advice"
    assert next_command("best-of-n", without) == f"{first} && {asked}"


def test_the_command_ends_with_what_to_run(place: Path) -> None:
    code, shown = call(
        "advise", "--model", str(place / "start"), "--data", str(place / "rows.jsonl"), "--max-length", "128",
        "--max-new-tokens", "4", "--samples-per-prompt", "2", "--max-train-rows", "12", "--max-eval-rows", "3",
    )  # fmt: skip
    assert code == 0
    assert "Recommendation: nothing" in shown
    assert "held-out prompts are too few" in shown
    assert "demotune advise --model" in shown
    assert "A recommendation from 12 of " in shown
    assert "It is no promise." in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "m", "--data", "gone.jsonl"], "gone.jsonl does not exist"),
        (["--model", "a/b/c", "--data", "d/d"], "model 'a/b/c' is no folder or GGUF file here"),
        (["--model", "m", "--data", "d/d", "--prompts", "gone.txt"], "prompts file gone.txt does not exist"),
        (
            ["--model", "m", "--data", "d/d", "--samples-per-prompt", "1"],
            "samples_per_prompt must be at least 2, got 1",
        ),
        (["--model", "m", "--data", "d/d", "--eval-share", "0.9"], "eval_share must be 0 to 0.5, got 0.9"),
        (["--model", "m"], "Missing option"),
    ],
)
def test_wrong_input_is_refused(arguments: list[str], expected: str) -> None:
    code, shown = call("advise", *arguments)
    assert code != 0
    assert expected in " ".join(shown.split())


def test_the_reward_of_an_earlier_advice_is_taken_away(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a folder of that name that is no reward stays."""
    asked = config_of(place, output=tmp_path / "advice", max_train_rows=12, max_eval_rows=6, samples_per_prompt=2)
    monkeypatch.setattr(advising, "decide", lambda _: RULES[0])  # nothing
    for name, stays in (("reward.json", False), ("other.json", True)):
        (tmp_path / "advice" / "reward").mkdir(parents=True, exist_ok=True)
        (tmp_path / "advice" / "reward" / name).write_text("{}", encoding="utf-8")
        assert advise(asked).advice.action == "nothing"
        assert (tmp_path / "advice" / "reward").exists() == stays


def test_what_cannot_be_measured_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="no row of 40 is held out"):
        advise(config_of(place, eval_share=0.0))
    with pytest.raises(DemotuneError, match=r"max_length is 1024, .* has 256 positions"):
        advise(config_of(place, max_length=1024))
    (tmp_path / "file").touch()
    with pytest.raises(DemotuneError, match="is a file; name a folder"):
        advise(config_of(place, output=tmp_path / "file"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").touch()
    with pytest.raises(DemotuneError, match="holds a run; name another folder"):
        advise(config_of(place, output=tmp_path / "run"))
