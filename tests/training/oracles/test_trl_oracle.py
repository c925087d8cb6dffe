"""The same model on the same text under TRL: loss, gradients, metrics, and whole trainings.

DPOTrainer, CPOTrainer and SFTTrainer are the oracles: TRL tokenises the text itself, pads every row on the right, and
collates, scales and steps in its own code.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from helpers.micro import (
    ARCHITECTURES,
    END,
    Architecture,
    assert_gradients_agree,
    gradients,
    largest_difference,
    parameters,
    random_demonstrations,
    random_pairs,
    scored,
    tiny_lm,
    train,
)
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from demotune.records import Pair, RenderedDemonstration, Triplet
from demotune.training.objectives import PairObjective, SFTObjective, TripletObjective

BETA = 0.5
COMMON: dict[str, Any] = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_length": None,
    "activation_checkpointing": False,
    "logging_steps": 1,
    "train_sampling_strategy": "sequential",
    "dataset_num_proc": None,
}
ADAM: dict[str, Any] = {
    "optim": "adamw_torch",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "weight_decay": 0.01,
}


def text(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    """Without the end token, which TRL adds."""
    assert ids[-1] != END
    return tokenizer.decode(ids)


def dpo_trainer(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    pairs: list[Pair],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    **settings: Any,
) -> DPOTrainer:
    """On copies of both models: TRL patches what it is given. The ids are checked to be ours."""
    rows = [
        {
            "prompt": text(tokenizer, pair.prompt_ids),
            "chosen": tokenizer.decode(pair.demo.ids[:-1]),
            "rejected": tokenizer.decode(pair.sample.ids[:-1]),
        }
        for pair in pairs
    ]
    trainer = DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(output_dir=str(folder), beta=BETA, loss_type=["sigmoid"], **{**COMMON, **settings}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for row, pair in zip(trainer.train_dataset, pairs, strict=True):
        assert (*row["prompt_ids"],) == pair.prompt_ids
        assert (*row["chosen_ids"],) == pair.demo.ids
        assert (*row["rejected_ids"],) == pair.sample.ids
    return trainer


def preference_gradients(
    policy: PreTrainedModel, pairs: list[Pair], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> tuple[float, dict[str, Tensor]]:
    """Loss of CPOTrainer without its likelihood term, a logistic loss without a reference, and its gradients."""
    rows = [
        {
            "prompt": text(tokenizer, pair.prompt_ids),
            "chosen": tokenizer.decode(pair.demo.ids[:-1]),
            "rejected": tokenizer.decode(pair.sample.ids[:-1]),
        }
        for pair in pairs
    ]
    shared = {name: value for name, value in COMMON.items() if name != "activation_checkpointing"}
    trainer = CPOTrainer(
        model=copy.deepcopy(policy),
        args=CPOConfig(output_dir=str(folder), beta=BETA, cpo_alpha=0.0, loss_type="sigmoid", **shared),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for row, pair in zip(trainer.train_dataset, pairs, strict=True):
        assert (*row["chosen_input_ids"],) == (*pair.prompt_ids, *pair.demo.ids)
        assert (*row["rejected_input_ids"],) == (*pair.prompt_ids, *pair.sample.ids)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    loss.backward()
    return loss.item(), gradients(trainer.model)


def sft_trainer(
    policy: PreTrainedModel,
    rows: list[RenderedDemonstration],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    **settings: Any,
) -> SFTTrainer:
    """Prompt and completion; the loss is on the completion alone. The ids are checked to be ours."""
    trainer = SFTTrainer(
        model=copy.deepcopy(policy),
        args=SFTConfig(output_dir=str(folder), packing=False, **{**COMMON, **settings}),
        train_dataset=Dataset.from_list(
            [
                {"prompt": text(tokenizer, row.prompt_ids), "completion": tokenizer.decode(row.demo.ids[:-1])}
                for row in rows
            ]
        ),
        processing_class=tokenizer,
    )
    for found, row in zip(trainer.train_dataset, rows, strict=True):
        assert (*found["input_ids"],) == (*row.prompt_ids, *row.demo.ids)
        assert [label for label in found["labels"] if label != -100] == [*row.demo.ids]
    return trainer


# One batch -----------------------------------------------------------------------------------------------------------


def test_tspin_equals_two_preferences_of_cpo(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Demonstrations over samples, and with a weight samples over first samples. Loss 1e-5, and its gradients."""
    policy, weight = tiny_lm(), 0.7
    pairs = random_pairs(1, 5, all_finished=True)
    firsts = [pair.sample for pair in random_pairs(2, 5, all_finished=True)]
    later = [replace(pair, demo=pair.sample, sample=first) for pair, first in zip(pairs, firsts, strict=True)]
    loss, slopes = preference_gradients(policy, pairs, tokenizer, tmp_path)
    later_loss, later_slopes = preference_gradients(policy, later, tokenizer, tmp_path)

    objective = TripletObjective(beta=BETA, weight=weight)
    triplets = [Triplet(pair, first) for pair, first in zip(pairs, firsts, strict=True)]
    found = objective(policy, objective.collate(triplets)).total / len(pairs)
    found.backward()
    assert found.item() == pytest.approx(loss + weight * later_loss, abs=1e-5)
    assert_gradients_agree(gradients(policy), {name: slopes[name] + weight * later_slopes[name] for name in slopes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pair_loss_gradients_and_metrics_equal_those_of_dpo(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A policy that has left its reference, so that the loss is not log 2. Loss and metrics 1e-5."""
    policy, reference = tiny_lm(architecture, seed=0), tiny_lm(architecture, seed=1)
    pairs = random_pairs(1, 5, all_finished=True)
    trainer = dpo_trainer(policy, reference, pairs, tokenizer, tmp_path)
    trainer.model.train()
    their_loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    their_loss.backward()

    objective = PairObjective(beta=BETA, link="logistic", sft_weight=0.0)
    found = objective(policy, objective.collate(scored(reference, [pairs])[0]))
    our_loss = found.total / len(pairs)
    our_loss.backward()
    assert abs(our_loss.item() - 0.6931) > 0.01
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    assert_gradients_agree(gradients(policy), gradients(trainer.model))
    metrics = trainer._metrics["train"]
    assert found.metrics.keys() <= metrics.keys()
    for name, values in found.metrics.items():
        assert float(values.mean()) == pytest.approx(metrics[name][0], abs=1e-5), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sft_loss_gradients_and_metrics_equal_those_of_sft_trainer(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Mean over completion tokens, the end token included; loss and metrics 1e-5."""
    policy, rows = tiny_lm(architecture), random_demonstrations(2, 5)
    trainer = sft_trainer(policy, rows, tokenizer, tmp_path)
    trainer.model.train()
    columns = [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    their_loss = trainer.compute_loss(trainer.model, trainer.data_collator(columns))
    their_loss.backward()

    objective = SFTObjective()
    batch = objective.collate(rows)
    found = objective(policy, batch)
    our_loss = found.total / batch["items"]
    our_loss.backward()
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    assert_gradients_agree(gradients(policy), gradients(trainer.model))
    for name in ("entropy", "mean_token_accuracy"):
        assert float(found.metrics[name].mean()) == pytest.approx(trainer._metrics["train"][name][0], abs=1e-5)


# Whole trainings -----------------------------------------------------------------------------------------------------


def test_training_on_pairs_equals_dpo_training(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Six AdamW steps with decay and clipping, in file order: parameters 1e-5, logged metrics 1e-4."""
    policy, reference = tiny_lm(seed=0), tiny_lm(seed=1)
    pairs = random_pairs(3, 12, all_finished=True)
    trainer = dpo_trainer(
        policy, reference, pairs, tokenizer, tmp_path / "trl", per_device_train_batch_size=2, max_steps=6, **ADAM
    )
    trainer.train()
    microbatches = scored(reference, [pairs[number : number + 2] for number in range(0, 12, 2)])
    start = parameters(policy)
    _, history = train(
        policy, PairObjective(beta=BETA, link="logistic", sft_weight=0.0), microbatches, tmp_path / "ours", **ADAM
    )
    assert largest_difference(parameters(policy), start) > 1e-3
    assert largest_difference(parameters(policy), parameters(trainer.model)) < 1e-5
    theirs = [record for record in trainer.state.log_history if "loss" in record]
    shared = [
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "entropy",
    ]
    for one, other in zip(history, theirs, strict=True):
        assert {name: one[name] for name in shared} == {name: pytest.approx(other[name], abs=1e-4) for name in shared}


def test_sft_training_equals_that_of_sft_trainer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Four AdamW steps of two accumulated micro-batches, uneven in tokens: parameters 1e-5, logged metrics 1e-4."""
    policy, rows = tiny_lm(), random_demonstrations(4, 16)
    trainer = sft_trainer(
        policy,
        rows,
        tokenizer,
        tmp_path / "trl",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        **ADAM,
    )
    trainer.train()
    start = parameters(policy)
    microbatches = [rows[number : number + 2] for number in range(0, 16, 2)]
    _, history = train(policy, SFTObjective(), microbatches, tmp_path / "ours", gradient_accumulation_steps=2, **ADAM)
    assert largest_difference(parameters(policy), start) > 1e-3
    assert largest_difference(parameters(policy), parameters(trainer.model)) < 1e-5
    theirs = [record for record in trainer.state.log_history if "loss" in record]
    for one, other in zip(history, theirs, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "num_tokens"):
            assert one[name] == pytest.approx(other[name], abs=1e-4), name
