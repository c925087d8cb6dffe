"""The four methods behind the names and arguments that users of TRL know. A thin cover over `run` and `resume`."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel, TrainerCallback

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_folder
from demotune.config.methods import AnyConfig, IRFTConfig, RFTConfig, SFTConfig, SPINConfig
from demotune.config.sampler import PLACE, engine_of
from demotune.models.policy import Policy
from demotune.pipeline import resume, run
from demotune.result import RunResult
from demotune.runs.folder import RunFolder

STANDS_IN_FOR = {
    "model": ("model", "processing_class"),
    "data": ("train_dataset",),
    "eval_data": ("train_dataset", "eval_dataset"),
    "use_peft": ("peft_config",),
}
"""Fields of a config for which objects may be passed."""


class MethodTrainer:
    """One method on one model and data set; no trainer of TRL or transformers, but called like one.

    `model` is a folder, a hub id or a transformers model, `args` a config of the method: without one a default config
    with the output folder MODEL-METHOD. A data set is anything that `demotune.run` takes. What is not given here is
    read from the config. `processing_class` is a tokenizer, `peft_config` a LoRA config, `callbacks` are transformers
    callbacks. Raises DemotuneError for an `args` of another kind.
    """

    config_class: ClassVar[type[AnyConfig]]

    def __init__(
        self,
        model: str | Path | PreTrainedModel | None = None,
        args: AnyConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
    ) -> None:
        self.args = self._default_args(model) if args is None else self._checked(args)
        if isinstance(model, str | Path):
            self.args, model = dataclasses.replace(self.args, model=str(model)), None
        if isinstance(train_dataset, str | Path):
            self.args, train_dataset = dataclasses.replace(self.args, data=(str(train_dataset),)), None
        if isinstance(eval_dataset, str | Path):
            self.args, eval_dataset = dataclasses.replace(self.args, eval_data=(str(eval_dataset),)), None
        self._objects = {
            "model": model,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            "peft_config": peft_config,
        }
        self._callbacks = tuple(callbacks or ())
        self._result: RunResult | None = None
        self._model: Policy | None = None

    def train(self, resume_from_checkpoint: bool = False) -> RunResult:
        """Run the method in the folder `args.output`; with `resume_from_checkpoint` go on with the run that is there.

        Raises DemotuneError for anything the user can fix, and where `args` are not those of the run to go on with.
        """
        if not isinstance(resume_from_checkpoint, bool):
            raise DemotuneError(
                f"resume_from_checkpoint is {resume_from_checkpoint!r}; a run goes on from its own folder, "
                "args.output: give True"
            )
        self._model = None
        if resume_from_checkpoint:
            self._refuse_other_args()
            self._result = resume(
                self.args.output,
                callbacks=self._callbacks,
                sampler=engine_of(self.args),
                vllm_python=self.args.vllm_python,
            )
        else:
            self._result = run(self.args, callbacks=self._callbacks, **self._objects)
        return self._result

    @property
    def result(self) -> RunResult:
        """What `train` returned. Raises DemotuneError before."""
        if self._result is None:
            raise DemotuneError(f"{type(self).__name__} has no result yet; call train() first")
        return self._result

    @property
    def model(self) -> Policy:
        """The trained model, loaded when it is first asked for. Raises DemotuneError before `train`."""
        if self._model is None:
            self._model = self.result.load()[0]
        return self._model

    def evaluate(self) -> dict[str, float]:
        """What the run measured on held-out rows with its model: the `eval_...` of `result.metrics`."""
        return {name: value for name, value in self.result.metrics.items() if name.startswith("eval_")}

    def save_model(self, output_dir: str | Path) -> None:
        """Copy the trained model and its tokenizer into a folder. Raises DemotuneError where that holds something."""
        folder = Path(output_dir)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DemotuneError(f"{folder} is there and not empty; choose a new folder for the model")
        with publish_folder(folder) as unfinished:
            shutil.copytree(self.result.model_folder, unfinished, dirs_exist_ok=True)

    def _default_args(self, model: Any) -> AnyConfig:
        if model is None:
            raise DemotuneError(f"{type(self).__name__} has neither model nor args; give model=FOLDER_OR_HUB_ID")
        source = model if isinstance(model, str | Path) else getattr(model, "name_or_path", "")
        name = Path(source).name or type(model).__name__
        return self.config_class(output=f"{name}-{self.config_class.method.upper()}")

    def _checked(self, args: Any) -> AnyConfig:
        if isinstance(args, self.config_class):
            return args
        given, wanted = type(args), self.config_class.__name__
        other = next((one for one in MethodTrainer.__subclasses__() if isinstance(args, one.config_class)), None)
        fix = f"use {other.__name__} for it" if other else f"write from demotune import {wanted}"
        raise DemotuneError(
            f"{type(self).__name__} takes args=demotune.{wanted}(...), got {given.__module__}.{given.__name__}; {fix}"
        )

    def _refuse_other_args(self) -> None:
        """What is None fills in by itself; what was passed as an object is in the run folder."""
        begun = RunFolder(Path(self.args.output)).read_config()
        if type(begun) is not type(self.args):
            raise DemotuneError(f"{self.args.output} holds a run of {begun.method}; choose another output")
        for field in dataclasses.fields(self.args):
            given, was = getattr(self.args, field.name), getattr(begun, field.name)
            passed = any(self._objects[name] is not None for name in STANDS_IN_FOR.get(field.name, ()))
            if field.name in ("output", *PLACE) or given is None or passed or given == was:
                continue
            raise DemotuneError(
                f"args.{field.name} is {given!r}, and the run in {self.args.output} began with {was!r}; give the same "
                "args, or choose another output for a new run"
            )


class SFTTrainer(MethodTrainer):
    """Supervised fine-tuning on demonstrations."""

    config_class = SFTConfig


class SPINTrainer(MethodTrainer):
    """SPIN: prefer demonstrations to the policy's own samples, one stage an iteration."""

    config_class = SPINConfig


class IRFTTrainer(MethodTrainer):
    """IRFT: stages of sampling and preferring demonstrations; the reward is implicit in the policy."""

    config_class = IRFTConfig


class RFTTrainer(MethodTrainer):
    """RFT: a reward model learned from demonstrations and samples, then the policy trained with it."""

    config_class = RFTConfig
