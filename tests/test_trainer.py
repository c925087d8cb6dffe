"""IRFTTrainer and its three siblings: called like TRL's trainers, they do what `run` and `resume` do."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset, DatasetDict
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer, write_rows
from helpers.tiny_runs import RFT, SMALL, STAGED
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from demotune import (
    DemotuneError,
    IRFTConfig,
    IRFTTrainer,
    RFTConfig,
    RFTTrainer,
    SFTConfig,
    SFTTrainer,
    SPINConfig,
    SPINTrainer,
    run,
)

TRAINERS = {SFTTrainer: SFTConfig, SPINTrainer: SPINConfig, IRFTTrainer: IRFTConfig, RFTTrainer: RFTConfig}
FIELDS: dict[type, dict[str, Any]] = {
    SFTConfig: SMALL | {"max_steps": 2},
    SPINConfig: {**STAGED, "stages": 1},
    IRFTConfig: STAGED,
    RFTConfig: SMALL | RFT,
}


class StopAfter(TrainerCallback):
    """Ctrl-C in the middle of a stage."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def rows(place: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_each_trainer_gives_the_model_of_its_run(trainer_class: type, place: Path, tmp_path: Path) -> None:
    config_class = TRAINERS[trainer_class]
    args = config_class(output=str(tmp_path / "facade"), **FIELDS[config_class])
    trainer = trainer_class(str(place / "start"), args, train_dataset=str(place / "rows.jsonl"))
    result = trainer.train()
    files = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),)}
    expected = run(config_class(output=str(tmp_path / "run"), **files, **FIELDS[config_class]))
    assert (result.method, trainer.result) == (config_class.method, result)
    ours, theirs = weights(result.model_folder), weights(expected.model_folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert trainer.evaluate() == {n: v for n, v in expected.metrics.items() if n.startswith("eval_")}
    assert trainer.evaluate()["eval_nll_per_token"] > 0


def test_objects_are_taken_as_trl_takes_them(place: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append(state.global_step)

    given = Dataset.from_list(rows(place))
    trainer = SFTTrainer(
        model=tiny_model(),
        args=SFTConfig(output=str(tmp_path / "run"), **FIELDS[SFTConfig]),
        train_dataset=DatasetDict(train=given.select(range(16)), test=given.select(range(16, 24))),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        callbacks=[Watch()],
    )
    result = trainer.train()
    assert seen == [1, 2]
    assert result.verdict.prompts == 8
    assert trainer.model is trainer.model  # loaded once
    assert trainer.model.peft_config["default"].r == 2


def test_the_model_is_saved_where_nothing_is(place: Path, tmp_path: Path) -> None:
    args = SFTConfig(output=str(tmp_path / "run"), data=(str(place / "rows.jsonl"),), **FIELDS[SFTConfig])
    trainer = SFTTrainer(place / "start", args)
    for early in (lambda: trainer.model, trainer.evaluate, lambda: trainer.save_model(tmp_path / "early")):
        with pytest.raises(DemotuneError, match=r"SFTTrainer has no result yet; call train\(\) first"):
            early()
    result = trainer.train()
    trainer.save_model(tmp_path / "copy")
    ours, theirs = weights(tmp_path / "copy"), weights(result.model_folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").get_vocab() == tiny_tokenizer().get_vocab()
    with pytest.raises(DemotuneError, match="is there and not empty"):
        trainer.save_model(tmp_path / "copy")


def test_a_stopped_run_goes_on_to_the_same_model(place: Path, tmp_path: Path) -> None:
    fields = {**STAGED, "save_steps": 1}
    given = {"model": tiny_model(), "processing_class": tiny_tokenizer(), "train_dataset": rows(place)}
    whole = IRFTTrainer(args=IRFTConfig(output=str(tmp_path / "whole"), **fields), **given).train()
    args = IRFTConfig(output=str(tmp_path / "stopped"), **fields)
    with pytest.raises(KeyboardInterrupt):
        IRFTTrainer(args=args, **given, callbacks=[StopAfter(1)]).train()
    result = IRFTTrainer(args=args, **given).train(resume_from_checkpoint=True)
    ours, theirs = weights(result.model_folder), weights(whole.model_folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_goes_on_with_its_own_args_only(place: Path, tmp_path: Path) -> None:
    args = SFTConfig(output=str(tmp_path / "run"), data=(str(place / "rows.jsonl"),), **FIELDS[SFTConfig])
    model = str(place / "start")
    SFTTrainer(model, args).train()
    with pytest.raises(DemotuneError, match=r"args\.seed is 7, and the run in .* began with 42; give the same args"):
        SFTTrainer(model, dataclasses.replace(args, seed=7)).train(resume_from_checkpoint=True)
    with pytest.raises(DemotuneError, match=r"args\.model is 'other', and the run"):
        SFTTrainer("other", args).train(resume_from_checkpoint=True)
    with pytest.raises(DemotuneError, match="holds a run of sft; choose another output"):
        IRFTTrainer(model, IRFTConfig(output=args.output)).train(resume_from_checkpoint=True)
    with pytest.raises(DemotuneError, match=r"resume_from_checkpoint is 'checkpoint-3'; .* give True"):
        SFTTrainer(model, args).train("checkpoint-3")  # type: ignore[arg-type]
    assert SFTTrainer(model, args).train(resume_from_checkpoint=True).method == "sft"
    with pytest.raises(DemotuneError, match="already holds a finished run"):
        SFTTrainer(model, args).train()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B-IRFT"),
        (Path("models/mine"), "mine-IRFT"),
        (tiny_model(), "LlamaForCausalLM-IRFT"),
    ],
)
def test_without_args_the_folder_is_named_after_the_model(model: object, expected: str) -> None:
    assert IRFTTrainer(model).args.output == expected


def test_other_args_are_refused_with_the_trainer_that_takes_them(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match=r"SFTTrainer takes args=demotune\.SFTConfig.*use IRFTTrainer for it"):
        SFTTrainer("m", IRFTConfig(output="x"))
    with pytest.raises(DemotuneError, match=r"got trl\..*\.SFTConfig; write from demotune import SFTConfig"):
        SFTTrainer("m", trl.SFTConfig(str(tmp_path), report_to="none", bf16=False))
    with pytest.raises(DemotuneError, match="RFTTrainer has neither model nor args; give model=FOLDER_OR_HUB_ID"):
        RFTTrainer()
