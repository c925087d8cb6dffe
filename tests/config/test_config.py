"""Configs: shipped ones load, wrong ones say what to write instead, saved ones come back the same."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from demotune.common.errors import DemotuneError
from demotune.config.config_files import (
    accelerate_configs,
    build_config,
    from_dict,
    load_config,
    save_config,
    shipped_configs,
    unknown_field,
)
from demotune.config.field import field_help, field_types, fields_of
from demotune.config.methods import (
    CONFIGS,
    AnyConfig,
    IRFTConfig,
    Method,
    RFTConfig,
    RunConfig,
    SFTConfig,
    SPINConfig,
    as_dict,
)

METHODS: tuple[Method, ...] = ("sft", "spin", "irft")
GIVEN: dict[str, object] = {"model": "some/model", "data": ["rows.jsonl"], "output": "runs/one"}


def method_of(text: str) -> Method:
    method = yaml.safe_load(text)["method"]
    assert method in METHODS
    return method


# Shipped configs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_loads_and_keeps_what_it_says(name: str) -> None:
    text = shipped_configs()[name]
    config = build_config(method_of(text), name, GIVEN)
    said = {field: value for field, value in yaml.safe_load(text).items() if field != "method"}
    assert said, "a shipped config that sets nothing"
    assert {field: getattr(config, field) for field in said} == said
    assert (config.model, config.data, config.output) == ("some/model", ("rows.jsonl",), "runs/one")


def test_the_configs_that_the_documentation_names_are_shipped() -> None:
    names = {"quickstart", "quickstart-sft", "spin", "ditto", "ditto-sft", "paper-pythia-1.4b", "paper-zephyr-7b"}
    assert names <= shipped_configs().keys()


def test_ditto_is_that_of_its_paper() -> None:
    """arXiv 2406.00888: 70% of a step's pairs are online, 20% replayed, 10% between policies; one fixed reference."""
    sft, irft = build_config("sft", "ditto-sft", GIVEN), build_config("irft", "ditto", GIVEN)
    assert isinstance(sft, SFTConfig)
    assert isinstance(irft, IRFTConfig)
    pairs = 1 + irft.history + irft.interpolicy
    shares = [round(share / pairs, 2) for share in (1, irft.history, irft.interpolicy)]
    assert shares == [0.7, 0.2, 0.1]
    assert (irft.samples_per_prompt, irft.reference, irft.history_from, irft.slices) == (10, "initial", "all", "all")
    assert (irft.beta, irft.learning_rate, irft.stages * (irft.steps_per_stage or 0)) == (0.05, 1e-6, 40)
    assert (sft.stop_loss, sft.max_steps, sft.learning_rate) == (1.0, 30, 3e-5)
    assert (sft.use_peft, sft.lora_r, sft.lora_alpha) == (irft.use_peft, irft.lora_r, irft.lora_alpha) == (True, 32, 64)


def test_the_configs_for_accelerate_are_read_by_accelerate() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert {file.stem for file in accelerate_configs()} == {"fsdp2", "fsdp2-two-nodes"}
    for file in accelerate_configs():
        read = load_config_from_file(str(file))
        assert read.distributed_type == "FSDP"
        assert read.fsdp_config["fsdp_version"] == 2
        assert read.num_processes == 8 * read.num_machines


def test_a_shipped_config_for_another_method_is_refused_by_name() -> None:
    with pytest.raises(DemotuneError, match="quickstart is a config for irft, not sft; run demotune irft --config"):
        build_config("sft", "quickstart", GIVEN)


# Files and flags -----------------------------------------------------------------------------------------------------


def test_defaults_then_the_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: irft\nbeta: 0.3\nstages: 4\nlearning_rate: 5e-7\n")  # YAML reads 5e-7 as text
    config = build_config("irft", str(file), {**GIVEN, "stages": 7})
    assert isinstance(config, IRFTConfig)
    assert (config.link, config.beta, config.stages, config.learning_rate) == ("logistic", 0.3, 7, 5e-7)
    assert build_config("irft", None, GIVEN) == IRFTConfig(model="some/model", data=("rows.jsonl",), output="runs/one")


def test_a_file_in_the_way_of_a_shipped_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spin").write_text("beta: 0.7\n")
    config = build_config("spin", "spin", GIVEN)
    assert isinstance(config, SPINConfig)
    assert config.beta == 0.7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: [0.1", "is not valid YAML"),
        ("- beta", "must hold fields (name: value), found list"),
        ("", "must hold fields (name: value), found NoneType"),
    ],
)
def test_a_file_that_holds_no_fields_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DemotuneError) as refusal:
        build_config("irft", str(tmp_path / "mine.yaml"), GIVEN)
    assert message in str(refusal.value)
    assert "mine.yaml" in str(refusal.value)


def test_a_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(DemotuneError, match=r"no-such\.yaml is neither a file nor a shipped config \(.*quickstart"):
        build_config("irft", "no-such.yaml", GIVEN)


# Fields that do not exist --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "field", "words"),
    [
        ("irft", "betta", ["irft has no field betta", "did you mean beta?"]),
        ("sft", "learning-rate", ["did you mean learning_rate?"]),
        ("spin", "link", ["link is a field of irft", "spin does not use"]),
        ("sft", "beta", ["beta is a field of spin, irft and rft", "sft does not use"]),
        ("irft", "num_train_epochs", ["num_train_epochs is a field of sft", "irft does not use"]),
        ("irft", "zzzzzz", ["irft has no field zzzzzz", "see demotune irft --help-all"]),
    ],
)
def test_an_unknown_field_names_its_owner_and_the_nearest(method: Method, field: str, words: list[str]) -> None:
    with pytest.raises(DemotuneError) as refusal:
        from_dict(method, {**GIVEN, field: 1})
    assert str(refusal.value) == unknown_field(field, method)
    for part in words:
        assert part in str(refusal.value)


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("stages", "two", "int"),
        ("stages", 2.0, "int"),
        ("stages", True, "int"),
        ("stages", None, "int"),
        ("beta", "strong", "float"),
        ("beta", True, "float"),
        ("beta", [0.1], "float"),
        ("max_rows", "many", "int"),
        ("max_rows", 1.5, "int"),
        ("bf16", "yes", "bool"),
        ("use_peft", 1, "bool"),
        ("optim", 3, "str"),
        ("model", None, "str"),
        ("data", {"a": 1}, "str or a list of str"),
        ("data", [1, 2], "str"),
        ("data_weights", ["x"], "float"),
    ],
)
def test_a_value_of_the_wrong_type_names_field_type_and_value(field: str, value: object, wanted: str) -> None:
    with pytest.raises(DemotuneError) as refusal:
        from_dict("irft", {**GIVEN, field: value})
    assert str(refusal.value).startswith(f"{field} must be {wanted}, got ")
    culprit = value[0] if isinstance(value, list) and field.startswith("data") else value  # the item of a list
    assert f"got {culprit!r}" in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("learning_rate", "5e-7", 5e-7),
        ("beta", 1, 1.0),
        ("data", "one.jsonl", ("one.jsonl",)),
        ("data", ["one.jsonl", "two.csv"], ("one.jsonl", "two.csv")),
        ("max_rows", None, None),
        ("max_rows", 5, 5),
        ("bf16", False, False),
        ("link", "nce", "nce"),
    ],
)
def test_values_of_yaml_become_values_of_python(field: str, given: object, kept: object) -> None:
    found = getattr(from_dict("irft", {**GIVEN, field: given}), field)
    assert (found, type(found)) == (kept, type(kept))


class Files(os.PathLike[str]):
    """A path that is no pathlib.Path, as fsspec and others have."""

    def __fspath__(self) -> str:
        return "rows.jsonl"


@pytest.mark.parametrize("data", ["rows.jsonl", Path("rows.jsonl"), ["rows.jsonl"], [Path("rows.jsonl")], Files()])
def test_a_path_or_one_text_stands_for_a_list_of_one(data: Any) -> None:
    config = SFTConfig(model=Path("models/start"), data=data, eval_data=data, output=Path("runs") / "one")  # type: ignore[arg-type]
    assert config == SFTConfig(model="models/start", data=("rows.jsonl",), eval_data=("rows.jsonl",), output="runs/one")
    assert [type(value) for value in (config.model, config.output, config.data[0])] == [str, str, str]


@pytest.mark.parametrize("rows", [{"prompt": ["a"]}, [{"prompt": "a"}], pd.DataFrame({"prompt": ["a"]})])
@pytest.mark.parametrize(("field", "argument"), [("data", "train_dataset"), ("eval_data", "eval_dataset")])
def test_rows_in_memory_are_no_data_of_a_config(rows: Any, field: str, argument: str) -> None:
    with pytest.raises(DemotuneError) as refusal:
        SFTConfig(output="runs/one", **{field: rows})
    message = str(refusal.value)
    assert message.startswith(f"{field} must be str")
    assert message.endswith(f"name files, folders or hub ids, and pass rows in memory to run() as {argument}=")
    assert "\n" not in message


def test_replaced_values_are_checked_again() -> None:
    config = SFTConfig(output="runs/one")
    assert dataclasses.replace(config, data="rows.jsonl").data == ("rows.jsonl",)  # type: ignore[arg-type]
    with pytest.raises(DemotuneError, match=r"lora_r must be > 0, got 0; the default is 16"):
        dataclasses.replace(config, lora_r=0)


def test_a_method_that_gives_another_default_keeps_bounds_and_panel() -> None:
    shared, own = fields_of(RunConfig)["learning_rate"], fields_of(SFTConfig)["learning_rate"]
    assert own == dataclasses.replace(shared, default=2e-5)
    with pytest.raises(DemotuneError, match=r"stages must be at least 1, got 0; the default is 1"):
        SPINConfig(output="runs/one", stages=0)


def test_what_spin_fixes_is_no_field_of_it() -> None:
    config = SPINConfig(output="runs/one")
    assert (config.link, config.reference, config.sft_weight) == ("logistic", "stage", 0.0)
    absent = field_types(IRFTConfig).keys() - field_types(SPINConfig).keys()
    assert absent == {"link", "reference", "sft_weight", "tspin_weight"}
    with pytest.raises(TypeError, match="link"):
        SPINConfig(output="runs/one", link="nce")  # type: ignore[call-arg]


def test_what_a_method_has_no_field_for_has_a_value_all_the_same() -> None:
    assert (SFTConfig(output="x").stages, SFTConfig(output="x").prompts, SPINConfig(output="x").prompts) == (1, (), ())
    assert RFTConfig(output="x").temperature == 1.0
    assert "stages" not in as_dict(SFTConfig(output="x"))


def test_one_of_a_few_names_them() -> None:
    with pytest.raises(DemotuneError, match="link must be one of logistic, linear, nce, tspin, got 'hinge'"):
        from_dict("irft", {**GIVEN, "link": "hinge"})


SHARED_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"output": ""}, "output is missing"),
    ({"eval_share": 0.6}, "eval_share must be 0 to 0.5, got 0.6"),
    ({"eval_share": -0.1}, "got -0.1"),
    ({"data_weights": (0.5, 0.5)}, "data_weights has 2 numbers for 1 data sources"),
    ({"data_weights": (-1.0,)}, "data_weights must be > 0"),
    ({"template": "no slot"}, "template must contain {prompt} once, got 'no slot'"),
    ({"template": "{prompt} {prompt}"}, "once"),
    ({"max_bad_share": 1.5}, "max_bad_share must be 0 to 1, got 1.5"),
    ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be > 0, got 0"),
    ({"gradient_accumulation_steps": -2}, "gradient_accumulation_steps must be > 0, got -2"),
    ({"lora_r": 0}, "lora_r must be > 0"),
    ({"lora_alpha": 0}, "lora_alpha must be > 0"),
    ({"logging_steps": 0}, "logging_steps must be > 0"),
    ({"save_steps": 0}, "save_steps must be > 0"),
    ({"max_eval_rows": 0}, "max_eval_rows must be > 0"),
    ({"max_length": 1}, "max_length must be at least 2, got 1"),
    ({"max_rows": 0}, "max_rows must be > 0, got 0"),
    ({"warmup_steps": -1.0}, "warmup_steps must be >= 0, got -1.0"),
    ({"weight_decay": -0.1}, "weight_decay must be >= 0, got -0.1"),
    ({"max_grad_norm": -1.0}, "max_grad_norm must be >= 0, got -1.0"),
    ({"merge_adapter": True}, "merge_adapter needs use_peft"),
    ({"seed": -1}, "seed must be >= 0, got -1"),
    ({"seed": 2**32}, "seed must be at most 4294967295, got 4294967296"),
]
STAGED_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"beta": 0.0}, "beta must be > 0, got 0.0"),
    ({"beta": -0.1}, "beta must be > 0, got -0.1"),
    ({"stages": 0}, "stages must be at least 1, got 0"),
    ({"epochs_per_stage": 0.0}, "epochs_per_stage must be > 0, got 0.0"),
    ({"steps_per_stage": 0}, "steps_per_stage must be > 0, got 0"),
    ({"history": 1.1}, "history must be 0 to 1, got 1.1"),
    ({"temperature": -0.5}, "temperature must be >= 0, got -0.5"),
    ({"top_p": 0.0}, "top_p must be above 0, at most 1, got 0.0"),
    ({"top_p": 1.01}, "got 1.01"),
    ({"top_k": -1}, "top_k must be >= 0, got -1"),
    ({"max_new_tokens": 0}, "max_new_tokens must be > 0, got 0"),
    ({"sample_batch_size": 0}, "sample_batch_size must be > 0, got 0"),
]
MISTAKES: list[tuple[Method, dict[str, Any], str]] = [
    *((method, values, message) for method in METHODS for values, message in SHARED_MISTAKES),
    *((method, values, message) for method in METHODS[1:] for values, message in STAGED_MISTAKES),
    ("sft", {"num_train_epochs": 0.0}, "num_train_epochs must be > 0, got 0.0"),
    ("sft", {"max_steps": -3}, "max_steps must be > 0, got -3"),
    ("irft", {"sft_weight": -0.1}, "sft_weight must be >= 0, got -0.1"),
]


@pytest.mark.parametrize(("method", "values", "message"), MISTAKES)
def test_a_value_out_of_range_says_what_it_is_and_what_to_do(
    method: Method, values: dict[str, Any], message: str
) -> None:
    """The problem with the value first, then, after a semicolon, the fix."""
    good: dict[str, Any] = {"output": "runs/one", "data": ("rows.jsonl",)}
    CONFIGS[method](**good)
    with pytest.raises(DemotuneError) as refusal:
        CONFIGS[method](**{**good, **values})
    problem, _, fix = str(refusal.value).rpartition("; ")
    assert message in problem
    assert len(fix) > 3


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_none_are_refused_in_every_field(value: float) -> None:
    """Infinity passes `> 0`; a run with it could only end in NaN."""
    fields = [name for name, wanted in field_types(IRFTConfig).items() if wanted is float]
    assert {"learning_rate", "beta", "sft_weight", "warmup_steps", "temperature"} <= set(fields)
    for field in fields:
        with pytest.raises(DemotuneError, match=f"{field} must be a finite number, got {value}; give"):
            IRFTConfig(**{"output": "runs/one", field: value})


# Round trip, help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        SFTConfig(output="runs/one"),
        SFTConfig(output="x", data=("a", "b"), data_weights=(0.25, 3.0), max_steps=7, learning_rate=5e-7, bf16=True),
        SPINConfig(output="x", template="### Instruction: {prompt}\n\n### Response: ", run_name="null"),
        IRFTConfig(output="été ☃ \u2028", model="yes", link="nce", lora_target_modules=("q_proj", "1e5")),
    ],
)
def test_a_saved_config_comes_back_the_same(tmp_path: Path, config: AnyConfig) -> None:
    save_config(config, tmp_path / "run.yaml")
    found = load_config(tmp_path / "run.yaml")
    assert found == config
    assert type(found) is type(config)
    # All fields are written, so that later defaults do not change an old run.
    assert yaml.safe_load((tmp_path / "run.yaml").read_text()).keys() == {"method", *field_types(type(config))}


def test_a_saved_config_without_a_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("beta: 0.1\n")
    with pytest.raises(DemotuneError, match=r"names no known method \(found None.*sft, spin, irft"):
        load_config(tmp_path / "run.yaml")


def test_plain_values_begin_with_the_method_and_hold_lists() -> None:
    values = as_dict(SPINConfig(output="x", data=("a",)))
    assert next(iter(values.items())) == ("method", "spin")
    assert values["data"] == ["a"]


@pytest.mark.parametrize("method", METHODS)
def test_every_field_has_a_help_text(method: Method) -> None:
    texts = field_help(CONFIGS[method])
    assert texts.keys() >= field_types(CONFIGS[method]).keys()
    for field in field_types(CONFIGS[method]):
        assert len(texts[field].strip()) >= len("LoRA rank."), field
        assert texts[field].endswith((".", ")")), field


def test_help_of_a_method_goes_before_the_shared_one() -> None:
    assert field_help(SFTConfig)["learning_rate"] == "Peak learning rate."
    assert field_help(IRFTConfig)["learning_rate"].startswith("Peak learning rate of each stage")
    assert field_help(IRFTConfig)["seed"] == field_help(RunConfig)["seed"]


@pytest.mark.parametrize("method", METHODS)
def test_configs_are_frozen(method: Method) -> None:
    config = CONFIGS[method](output="runs/one")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_a_run_yaml_torn_anywhere_is_named(tmp_path: Path) -> None:
    """What is left may still be YAML: fields without a value, or without their later neighbours."""
    file = tmp_path / "run.yaml"
    save_config(IRFTConfig(model="m", data=("d",), output="o"), file)
    text = file.read_text()
    for length in range(0, len(text), 7):
        file.write_text(text[:length])
        try:
            load_config(file)
        except DemotuneError as error:
            assert str(file) in str(error)
