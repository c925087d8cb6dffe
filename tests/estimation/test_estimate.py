"""What a run will cost, against hand-worked numbers, torch's own counter of operations, and what tiny runs recorded."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import call
from helpers.micro import ARCHITECTURES, tiny_lm
from helpers.rendered import rendered_rows
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer, write_rows
from helpers.tiny_runs import RFT, SMALL, STAGED, tiny_runs
from torch.utils.flop_counter import FlopCounterMode

from demotune import DemotuneError, IRFTConfig, RFTConfig
from demotune.common.processes import process_count
from demotune.config.methods import AnyConfig
from demotune.estimation.estimate import estimate_config
from demotune.estimation.forecast import Estimate, Launch, estimate_setup, plan_work
from demotune.estimation.machines import DATASHEETS, Machine, machine_named, measure_machine, unknown_machine
from demotune.estimation.memory_fit import budgets_of, fit_to_memory, memory_of_steps
from demotune.estimation.model_shape import read_shape
from demotune.estimation.time_and_memory import Costs
from demotune.models.batches import pair_batch
from demotune.models.policy import attach_adapter, lora_config
from demotune.records import Pair, Response
from demotune.result import read_result
from demotune.runs.folder import RunFolder
from demotune.training.microbatches import plan_microbatches
from demotune.training.prepare import prepare_run
from demotune.training.setup import Setup
from demotune.training.stage import stage_slice
from demotune.training.work import PhaseWork, Tokens

ROUND = Machine("round", "cpu", "float32", products=1e9, bandwidth=1e9, memory=2.0**34, measured=True)
VOCABULARY = len(tiny_tokenizer())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


def where(place: Path, output: str) -> dict[str, Any]:
    return {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / output)}


def prepared(config: AnyConfig, folder: Path) -> Setup:
    return prepare_run(config, RunFolder(folder), ())


def irft_config(place: Path, **fields: Any) -> IRFTConfig:
    return IRFTConfig(**where(place, "unused") | STAGED | fields)


def tiny_costs(place: Path, adapter: Any = None, **fields: Any) -> Costs:
    return Costs(irft_config(place, **fields), read_shape(place / "start", adapter), ROUND)


# Operations


def test_operations_of_a_tiny_llama_by_hand(place: Path) -> None:
    """2 layers, width 16, 4 heads on 2 key heads of width 4, feed-forward 32, tied; 10 tokens, the head at 4."""
    layer = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32  # queries, keys and values, output, feed-forward
    assert layer == 2304
    attention = 2 * 2 * (2 * 10 * 10 * 16)  # per layer: scores, mixing; 4 heads of width 4
    expected = 2 * 2 * layer * 10 + 2 * VOCABULARY * 16 * 4 + attention
    costs = tiny_costs(place)
    tokens = Tokens(computed=10, positions=4, attended=100)
    assert costs.forward_flops(tokens) == expected
    assert costs.backward_flops(tokens) == 2 * expected


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_operations_against_torch_s_counter(place: Path, lora: bool) -> None:
    """A real forward and backward pass of 40 tokens, the head at the last 25."""
    adapter = lora_config(4, 8, ("all-linear",)) if lora else None
    model: Any = tiny_model()
    model.set_attn_implementation("eager")
    if adapter is not None:
        model = attach_adapter(model, adapter, seed=0)
    ids = torch.arange(40).unsqueeze(0) + 5
    costs, tokens = tiny_costs(place, adapter), Tokens(computed=40, positions=25, attended=40**2)
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids, logits_to_keep=25).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert costs.forward_flops(tokens) == pytest.approx(forward.get_total_flops(), rel=0.02)
    # LoRA's first layer needs no gradient of its input: one eighth of a model of two layers.
    expected = backward.get_total_flops()
    assert costs.backward_flops(tokens) == pytest.approx(expected, rel=0.15 if lora else 0.02)


# Shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_parameters_without_reading_weights(architecture: Any, tied: bool, tmp_path: Path) -> None:
    model = tiny_lm(architecture, tied=tied)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # nothing but the config
    shape = read_shape(tmp_path, None)
    assert shape.parameters == model.num_parameters()
    assert shape.trained == shape.parameters
    linear = [layer for layer in model.modules() if type(layer).__name__ in ("Linear", "Conv1D")]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert shape.body == sum(layer.weight.numel() for layer in linear if layer is not head)
    assert (shape.layers, shape.width, shape.queries) == (2, 16, 16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trained_parameters_of_an_adapter(architecture: Any, tmp_path: Path) -> None:
    tiny_lm(architecture).save_pretrained(tmp_path / "base")
    adapter = lora_config(4, 8, ("all-linear",))
    shape = read_shape(tmp_path / "base", adapter)
    model = attach_adapter(tiny_lm(architecture), lora_config(4, 8, ("all-linear",)), seed=0)
    trained, everything = model.get_nb_trainable_parameters()
    assert (shape.trained, shape.parameters) == (trained, everything - trained)
    assert adapter.target_modules == "all-linear"  # the run's own config stays as it was
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(str(tmp_path / "adapter"))
    assert read_shape(tmp_path / "adapter", adapter) == shape
    assert read_shape(tmp_path / "adapter", None).trained == shape.parameters  # merged and trained whole


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(DemotuneError, match="as a causal language model"):
        read_shape(tmp_path, None)


# Tokens


def common_tokens(setup: Setup) -> int:
    """Tokens that all prompts of the tiny rows begin with."""
    return len(setup.tokenizer("<|im_start|>user\nsay ", add_special_tokens=False)["input_ids"])


def test_what_is_known_is_not_planned(place: Path, tmp_path: Path) -> None:
    """In float32 held-out demonstrations are scored once under each policy."""
    setup = prepared(irft_config(place, stages=2), tmp_path)
    half = prepared(irft_config(place, stages=2, bf16=True), tmp_path)
    for number in (0, 1):
        own = stage_slice(setup, number)
        (reference,) = (work for work in plan_work(setup) if (work.stage, work.name) == (number, "reference"))
        prompts = sum(len(row.prompt_ids) for row in (*own, *own, *setup.heldout))
        assert reference.forward_tokens == prompts + sum(len(row.demo.ids) + 8 for row in own) + 8 * len(setup.heldout)
        (sample,) = (work for work in plan_work(setup) if (work.stage, work.name) == (number, "sample"))
        assert sample.draws[0].rows == len(own) + (0 if number else len(setup.heldout))
        (check, more) = (
            next(work for work in plan_work(one) if (work.stage, work.name) == (number, "check"))
            for one in (setup, half)
        )
        again = sum(len(row.prompt_ids) + len(row.demo.ids) for row in setup.heldout)
        assert more.forward_tokens - check.forward_tokens == pytest.approx((1 + number) * again)


def test_a_pair_computes_its_prompt_once_and_counts_it_twice(place: Path, tmp_path: Path) -> None:
    setup = prepared(irft_config(place, stages=1, sft_weight=0.0, bf16=True), tmp_path)
    score = next(work for work in plan_work(setup) if work.name == "reference").scored
    rows = [*setup.train, *setup.heldout]
    prompts, demos = sum(len(row.prompt_ids) for row in rows), sum(len(row.demo.ids) for row in rows)
    samples = 8 * len(rows)  # max_new_tokens; demonstrations are longer
    batches = sum(-(-len(side) // setup.config.per_device_train_batch_size) for side in (setup.train, setup.heldout))
    saved = common_tokens(setup) * (len(rows) - batches)
    assert saved > 0
    assert score.computed == prompts + demos + samples - saved
    assert score.counted == 2 * prompts + demos + samples
    assert score.positions == demos + samples
    assert score.attended == sum(
        len(row.prompt_ids) ** 2
        + len(row.demo.ids) * (len(row.prompt_ids) + len(row.demo.ids))
        + 8 * (len(row.prompt_ids) + 8)
        for row in rows
    )


def test_drawing_computes_what_prompts_share_once(place: Path, tmp_path: Path) -> None:
    setup = prepared(irft_config(place, stages=1), tmp_path)
    draw = plan_work(setup)[0].draws[0]
    prompts = [row.prompt_ids for row in (*setup.train, *setup.heldout)]
    common = common_tokens(setup)
    assert draw.prefill.computed == common + sum(len(prompt) - common for prompt in prompts)
    assert (draw.rows, draw.slots, draw.response) == (len(prompts), 5, 8)


def test_policy_steps_share_a_prompt_among_its_responses(place: Path, tmp_path: Path) -> None:
    """4 prompts with 2 responses: micro-batches of 4 hold both responses of two prompts; those of 1 hold one."""

    def prepared_for(batch: int) -> Setup:
        fields = SMALL | RFT | {"per_device_train_batch_size": batch}
        return prepared(RFTConfig(**where(place, "unused") | fields), tmp_path)

    def policy(batch: int) -> PhaseWork:
        setup = prepared_for(batch)
        return next(work for work in plan_work(setup) if work.name == "policy")

    shared, alone = policy(4), policy(1)
    assert shared.training is not None
    assert alone.training is not None
    responses = 2 * 8  # batches of 8 responses
    prompt = shared.draws[0].prompt
    beginning = common_tokens(prepared_for(4)) * responses / 4  # spared once in each of the micro-batches
    assert shared.training.tokens.computed == pytest.approx(responses * (prompt / 2 + 8) - beginning)
    assert alone.training.tokens.computed == pytest.approx(responses * (prompt + 8))
    assert shared.trained_tokens == pytest.approx(responses * (prompt + 8))
    # Drawn, scored by start model and reward: responses carry the policy's log-probabilities.
    assert shared.forward_tokens == pytest.approx(3 * responses * (prompt + 8))


@pytest.mark.parametrize("name", ["sft", "irft-1", "rft"])
def test_tokens_against_what_a_run_counted(name: str, runs: Path, tmp_path: Path) -> None:
    """Samples of a random model rarely end before max_new_tokens, so they are as long as expected within 3%."""
    folder = RunFolder(runs / name)
    setup = prepared(folder.read_config(), tmp_path)
    stages = read_result(folder).stages
    work = plan_work(setup)
    names = [[phase.name for phase in work if phase.stage == number] for number in range(len(stages))]
    assert names == [list(stage["phases"]) for stage in stages]
    for phase in work:
        record = stages[phase.stage]["phases"][phase.name]
        if phase.name == "reward":  # held-out pairs end its steps early
            assert phase.trained_tokens >= 0.97 * record["trained_tokens"]
            continue
        # Policy batches take 8 of 19 prompts, whose lengths are not the mean's.
        close = 0.05 if phase.name == "policy" else 0.03
        assert phase.forward_tokens == pytest.approx(record["forward_tokens"], rel=close)
        assert phase.trained_tokens == pytest.approx(record["trained_tokens"], rel=close)
        if phase.training is not None:
            assert phase.training.steps == record["steps"]


# Time and memory


def total(found: Estimate) -> tuple[float, float, float]:
    return found.flops, found.seconds, found.memory


def test_the_same_estimate_twice_and_no_random_number_of_the_run(place: Path, tmp_path: Path) -> None:
    setup = prepared(irft_config(place, use_peft=True), tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert total(estimate_setup(setup, ROUND)) == total(estimate_setup(setup, ROUND))
    measure_machine("float32")
    assert torch.equal(torch.get_rng_state(), before)


def test_more_work_costs_more(place: Path, tmp_path: Path) -> None:
    setup = prepared(irft_config(place), tmp_path)
    base = estimate_setup(setup, ROUND)
    for name, field in (("layers", "layers"), ("vocabulary", "vocabulary"), ("body", "body"), ("width", "width")):
        shape = dataclasses.replace(base.costs.shape, **{field: 2 * getattr(base.costs.shape, name)})
        bigger = dataclasses.replace(base, costs=dataclasses.replace(base.costs, shape=shape))
        assert bigger.seconds > base.seconds, name
        assert name == "body" or bigger.memory > base.memory, name
    longer = dataclasses.replace(
        setup, train=rendered_rows(dataclasses.replace(row, prompt_ids=row.prompt_ids * 2) for row in setup.train)
    )
    assert all(more > less for more, less in zip(total(estimate_setup(longer, ROUND)), total(base), strict=True))
    slower = dataclasses.replace(ROUND, products=5e8)
    assert estimate_setup(setup, slower).seconds > base.seconds
    twice = estimate_setup(prepared(irft_config(place, epochs_per_stage=2.0), tmp_path), ROUND)
    assert twice.seconds > base.seconds
    assert twice.memory == base.memory


@pytest.mark.parametrize(
    ("optim", "dtype", "expected"),
    [
        ("adamw_torch_fused", "float32", 12),
        ("adamw_torch_fused", "bfloat16", 6),
        ("sgd", "float32", 4),
        ("rmsprop", "float32", 8),
        ("adafactor", "float32", 4),
        ("adamw_bnb_8bit", "float32", 6),
    ],
)
def test_bytes_of_gradients_and_optimizer(optim: str, dtype: str, expected: int, place: Path) -> None:
    costs = tiny_costs(place, optim=optim, dtype=dtype)
    assert costs.optimizer_bytes == expected * costs.shape.parameters


def test_bytes_of_an_adapter_s_optimizer(place: Path) -> None:
    costs = tiny_costs(place, lora_config(4, 8, ("all-linear",)), dtype="bfloat16")
    assert costs.optimizer_bytes == 12 * costs.shape.adapter  # an adapter is kept in float32


def test_optimizer_bytes_are_torch_s() -> None:
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.tensor([[1, 2]])).logits.sum().backward()
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert sum(value.nbytes for value in kept) == 8 * model.num_parameters()


def test_checkpointing_trades_time_for_memory(place: Path, tmp_path: Path) -> None:
    plain, recomputed = (
        estimate_setup(prepared(irft_config(place, activation_checkpointing=on), tmp_path), ROUND)
        for on in (False, True)
    )
    assert recomputed.memory < plain.memory
    assert recomputed.seconds > plain.seconds
    assert recomputed.flops == plain.flops  # what is recomputed is no work of the method


def test_processes_share_the_work(place: Path, tmp_path: Path) -> None:
    found = estimate_setup(prepared(irft_config(place), tmp_path), ROUND)
    two = dataclasses.replace(found.costs, processes=2)
    for work in found.work:
        one_seconds, two_seconds = found.costs.seconds(work), two.seconds(work)
        assert two_seconds["sampling"] == one_seconds["sampling"] / 2
        assert two_seconds["optimizer"] == one_seconds["optimizer"]


def test_machines() -> None:
    found = machine_named("H200", "bfloat16")
    assert (found.products, found.bandwidth, found.memory, found.measured) == (989e12, 4.8e12, 141e9, False)
    assert machine_named("h200", "float32").products == 67e12
    with pytest.raises(DemotuneError, match="device 'h20' is not in the table; choose one of b200, h200, h100"):
        machine_named("h20", "bfloat16")
    here = measure_machine("float32")
    assert here.measured
    assert 1e8 < here.products < 1e16
    assert 1e8 < here.bandwidth < 1e14


# The command


def flags(place: Path, **fields: str) -> list[str]:
    given = {"model": str(place / "start"), "data": str(place / "rows.jsonl"), "max-length": "128"} | fields
    return [part for name, value in given.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize("method", ["sft", "spin", "irft", "rft"])
def test_the_command_estimates_every_method(
    method: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, shown = call("estimate", "--method", method, *flags(place))
    assert code == 0, shown
    for words in ("operations", "memory", "in all", "ceilings of this machine, measured just now", "it fits"):
        assert words in shown
    assert "stage 1: check" in shown or method in ("sft", "spin")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_datasheet_is_called_arithmetic(place: Path) -> None:
    code, shown = call("estimate", "--device", "h200", "--method", "irft", *flags(place), "--stages", "1")
    assert code == 0, shown
    assert "estimate for NVIDIA H200 SXM" in shown
    assert "this is arithmetic, not a measurement" in shown
    assert "989 TFLOP/s of bfloat16" in shown
    assert (
        "67 TFLOP/s of float32" in call("estimate", "--device", "h200", "--method=sft", *flags(place), "--no-bf16")[1]
    )


def test_a_run_that_does_not_fit_is_told_what_would(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASHEETS, "small", ("Small", 121, 30.3, 300, 1e-5))
    code, shown = call("estimate", "--device", "small", "--method", "irft", *flags(place))
    assert code == 0, shown
    assert "it does not fit" in shown
    assert "with --use-peft --activation-checkpointing --per-device-train-batch-size 1" in shown
    assert "--gradient-accumulation-steps 8" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--method", "sft", "--device", "h20", "--model", "m", "--data", "d/d"],
            f"device 'h20' is not in the table; choose one of {', '.join(DATASHEETS)}",
        ),
        (["--method", "irft", "--betta", "1"], "irft has no field betta; did you mean beta?"),
        (["--method", "sft", "--beta", "1"], "beta is a field of spin, irft and rft, which sft does not use"),
        (["--method", "sft"], "model and data are missing; add --model MODEL --data DATA"),
        (["--method", "sft", "--model", "no-such-model", "--data", "d/d"], "check the path or the hub id"),
        (["--method", "irft", "--model", "m", "--data", "d/d", "--beta", "-1"], "beta must be > 0, got -1.0"),
    ],
)
def test_wrong_input(arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, shown = call("estimate", *arguments)
    assert code == 1
    assert "error: " in shown
    assert expected in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--method", "dpo"]], ids=["none", "unknown"])
def test_a_method_is_needed(arguments: list[str], place: Path) -> None:
    code, shown = call("estimate", *arguments, *flags(place))
    assert code == 2
    assert "--method" in shown
    assert "irft" in shown


# What memory asks for


def fitted(place: Path, folder: Path, available: float, **fields: Any) -> AnyConfig:
    """The config of a run that may fill so many bytes."""
    return fit_to_memory(prepared(irft_config(place, **fields), folder), available).config


def test_a_run_that_fits_is_left_as_it_is(place: Path, tmp_path: Path) -> None:
    config = fitted(place, tmp_path, 1e12)
    assert (config.tokens_per_microbatch, config.activation_checkpointing) == (None, False)


def test_a_run_that_does_not_fit_is_cut_then_recomputed(place: Path, tmp_path: Path) -> None:
    """Less and less memory: first smaller micro-batches, then recomputed activations; never below one row."""
    setup = prepared(irft_config(place, activation_checkpointing=False), tmp_path / "plain")
    estimate = estimate_setup(setup, unknown_machine(setup.config))
    budgets = budgets_of(estimate, setup.config, 1)
    needs = [memory_of_steps(estimate, budget) for budget in budgets]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > needs[-1]
    half = fitted(place, tmp_path / "half", needs[1])
    assert (half.tokens_per_microbatch, half.activation_checkpointing) == (budgets[1], False)
    least = fitted(place, tmp_path / "least", 0.0)
    longest = max(len(row.prompt_ids) + len(row.demo.ids) for row in setup.train)
    assert least.activation_checkpointing
    assert least.tokens_per_microbatch is not None
    assert longest <= least.tokens_per_microbatch < 2 * longest


def test_sampling_does_not_ask_for_smaller_micro_batches(place: Path, tmp_path: Path) -> None:
    """It takes fewer slots by itself; the run's own peak still counts it."""
    few, many = (
        estimate_setup(setup, unknown_machine(setup.config))
        for slots in (1, 10**6)
        for setup in [prepared(irft_config(place, sample_batch_size=slots, max_rows=None), tmp_path / str(slots))]
    )
    draw = dataclasses.replace(few.work[0], draws=tuple(dataclasses.replace(d, slots=10**6) for d in few.work[0].draws))
    assert few.costs.memory(draw) > memory_of_steps(few, None)
    assert memory_of_steps(few, None) == memory_of_steps(many, None)


def test_a_shared_beginning_is_counted_once_a_batch(place: Path, tmp_path: Path) -> None:
    """Against the packs that training makes of the same pairs: tokens that go through the model, to the token."""
    setup = prepared(irft_config(place, max_new_tokens=4), tmp_path)
    (train,) = [phase for phase in plan_work(setup) if phase.name == "train" and phase.stage == 0]
    rows = stage_slice(setup, 0)
    assert train.training is not None
    fours = [Response(row.demo.ids[:4], finished=True) for row in rows]
    pairs = [Pair(row.key, row.prompt_ids, row.demo, four) for row, four in zip(rows, fours, strict=True)]
    plan = plan_microbatches(
        [len(pair.prompt_ids) + max(len(pair.demo.ids), 4) for pair in pairs],
        batch_size=setup.config.per_device_train_batch_size,
        accumulation=1,
        epochs=setup.config.epochs_per_stage,  # type: ignore[union-attr]
        steps=None,
        seed=setup.seed(0, "microbatches"),
    )
    packed = [pair_batch([pairs[number] for number in plan.units[unit]])["input_ids"].numel() for unit in plan.order]
    assert train.training.tokens.computed == sum(packed)


def test_what_the_user_sets_stays(place: Path, tmp_path: Path) -> None:
    config = fitted(place, tmp_path, 0.0, tokens_per_microbatch=77, activation_checkpointing=False)
    assert (config.tokens_per_microbatch, config.activation_checkpointing) == (77, False)


def test_processes_share_work_and_shards_share_memory(place: Path) -> None:
    config = irft_config(place, max_length=128, per_device_train_batch_size=1)
    one, _ = estimate_config(config, "h200")
    eight, _ = estimate_config(config, "h200", Launch(8))
    sharded, _ = estimate_config(config, "h200", Launch(8, sharded=True))
    assert (one.costs.processes, eight.costs.processes) == (1, 8)
    assert eight.seconds < one.seconds
    training = next(work for work in sharded.work if work.training is not None)
    spared = eight.costs.memory(training) - sharded.costs.memory(training)
    slack = eight.costs._efficiency.memory_slack
    assert spared == pytest.approx(slack * eight.costs.optimizer_bytes * 7 / 8)
    assert process_count() == 1


def test_eight_processes_take_an_eighth_of_the_steps(place: Path) -> None:
    config = irft_config(place, max_length=128, per_device_train_batch_size=1, epochs_per_stage=8.0)
    steps = [
        next(work.training.steps for work in estimate_config(config, "h200", launch)[0].work if work.training)
        for launch in (None, Launch(4))
    ]
    assert steps[0] == pytest.approx(4 * steps[1], abs=4)


def test_an_engine_draws_outside_of_this_process(place: Path) -> None:
    config = irft_config(place, max_length=128)
    here, _ = estimate_config(config, "h200")
    there, setup = estimate_config(dataclasses.replace(config, sampler="http://elsewhere:8000"), "h200")
    assert setup.config.sampler == "http://elsewhere:8000"
    work = here.work[0]
    assert there.costs._drawing_memory(work.draws[0]) == 0 < here.costs._drawing_memory(work.draws[0])
    assert there.costs.seconds(work)["sampling"] < here.costs.seconds(work)["sampling"]


def test_several_processes_need_a_device(place: Path) -> None:
    code, shown = call("estimate", "--method=irft", "--processes=8", *flags(place))
    assert (code, "add --device, such as --device h200" in shown) == (1, True)
    code, shown = call("estimate", "--method=irft", "--processes=8", "--sharded", "--device=h200", *flags(place))
    assert (code, "8 × NVIDIA H200 SXM, gradients and optimizer spread over them" in " ".join(shown.split())) == (
        0,
        True,
    )
