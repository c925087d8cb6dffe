"""Damaged, foreign and mismatched model folders: one error that names the folder and the cause, never a traceback."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hostile_models import ADAPTERS, POLICIES, REWARDS, config, faulty, save_adapter, save_reward
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from demotune import IRFTConfig, RFTConfig, SFTConfig, load_reward, run
from demotune.common.errors import DemotuneError
from demotune.common.files import read_rows
from demotune.common.memory import is_lack_of_memory
from demotune.config.drawing import GenerationOptions
from demotune.data import as_prompt
from demotune.models.model_folder import reading
from demotune.models.policy import load_policy, refuse_broken_policy, resolve_model
from demotune.models.reference_logps import completion_logps
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Completion, Response
from demotune.rewards.answers import answer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    save_tiny(folder / "start")
    save_adapter(folder / "start", folder / "adapter")
    save_reward(folder / "reward")
    write_rows(folder / "rows.jsonl")
    return folder


def sft(place: Path, model: Path, output: Path) -> Any:
    return run(SFTConfig(model=str(model), data=(str(place / "rows.jsonl"),), output=str(output), max_length=128))


def answers(model: Path) -> list[str]:
    given = answer(str(model), [as_prompt("say 3")], GenerationOptions(max_new_tokens=4, temperature=0))
    return [one.text for one in given]


def load(folder: Path) -> Any:
    return load_policy(folder, dtype="float32", attn_implementation=None, device=CPU)


def refused(message: str, folder: Path) -> Any:
    return pytest.raises(DemotuneError, match=rf"(?s)(?=.*{folder.name})(?=.*({message})).*; ")


@pytest.mark.parametrize("kind", POLICIES)
def test_a_faulty_model_is_refused_by_every_command(kind: str, place: Path, tmp_path: Path) -> None:
    fault, message = POLICIES[kind]
    folder = faulty(place / "start", tmp_path / "faulty", fault)
    with refused(message, folder):
        answers(folder)
    with refused(message, folder):
        sft(place, folder, tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()  # nothing was begun, so --output is still free
    with refused("no sequence classifier|cannot read|holds no|are not those|says", folder):
        load_reward(folder)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_faulty_adapter_is_refused_by_every_command(kind: str, place: Path, tmp_path: Path) -> None:
    fault, message = ADAPTERS[kind]
    folder = faulty(place / "adapter", tmp_path / "faulty", fault)
    with refused(message, folder):
        answers(folder)
    with refused(message, folder):
        sft(place, folder, tmp_path / "run")


@pytest.mark.parametrize("kind", REWARDS)
def test_a_faulty_reward_is_refused(kind: str, place: Path, tmp_path: Path) -> None:
    fault, message = REWARDS[kind]
    folder = faulty(place / "reward", tmp_path / "faulty", fault)
    with refused(message, folder):
        load_reward(folder, bf16=False).rewards_of([Completion((5, 6), Response((7,), finished=False))])


def test_rft_looks_at_the_model_that_its_reward_starts_from_before_it_begins(place: Path, tmp_path: Path) -> None:
    folder = faulty(place / "reward", tmp_path / "faulty", REWARDS["no head"][0])
    start, data = str(place / "start"), (str(place / "rows.jsonl"),)
    with refused(r"missing: score\.weight", folder):
        run(RFTConfig(model=start, data=data, output=str(tmp_path / "run"), reward_model=str(folder)))
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 40, b"no GGUF at all"])
def test_a_torn_gguf_file_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMOTUNE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "torn.gguf"
    file.write_bytes(content)
    with refused("cannot read .* as GGUF", file):
        answers(file)
    assert not list((tmp_path / "cache").glob("models/*"))


def test_a_file_is_no_model_folder(place: Path) -> None:
    with pytest.raises(DemotuneError, match="is a file; give the folder that holds the model"):
        answers(place / "start" / "model.safetensors")


# What is whole is read -----------------------------------------------------------------------------------------------


def test_the_whole_folders_are_accepted(place: Path) -> None:
    assert answers(place / "start") == answers(place / "adapter")  # a new adapter changes nothing
    reward = load_reward(place / "reward", bf16=False)
    assert reward.rewards_of([Completion((5, 6), Response((7,), finished=False))]) == [0.0]  # a head of zeros


def test_a_model_is_looked_at_without_a_change_of_random_numbers(place: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    refuse_broken_policy(place / "start")
    refuse_broken_policy(place / "adapter")
    assert torch.equal(torch.get_rng_state(), before)


def test_code_beside_a_model_that_transformers_has_is_not_run(place: Path, tmp_path: Path) -> None:
    folder = faulty(place / "start", tmp_path / "own", config(auto_map={"AutoModelForCausalLM": "own.Model"}))
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    assert answers(folder) == answers(place / "start")


def test_an_adapter_without_tokenizer_reads_with_its_base_s(place: Path) -> None:
    assert not list((place / "adapter").glob("tokenizer*"))
    assert load_tokenizer(place / "adapter").get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("tied", [True, False])
def test_the_base_gets_as_many_rows_as_its_adapter_has(tied: bool, tmp_path: Path) -> None:
    """Ten tokens more, trained beside the adapter: the numbers that peft saved are the ones that are loaded."""
    from peft import LoraConfig, get_peft_model

    base = tiny_model()
    base.config.tie_word_embeddings = tied
    if not tied:
        base.lm_head.weight = torch.nn.Parameter(torch.randn(280, 16))
    base.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(290)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(10)])
    tokenizer.save_pretrained(tmp_path / "adapter")

    assert len(load_tokenizer(tmp_path / "adapter")) == 290
    ids = torch.tensor([[5, 288, 9]])
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "adapter")(ids).logits, adapted.eval()(ids).logits)


def test_a_padded_vocabulary_is_no_fault_and_its_padding_is_never_written(place: Path, tmp_path: Path) -> None:
    """Forty rows more than tokens, of which each is likelier than any token."""
    model = tiny_model()
    rows = torch.cat([model.get_input_embeddings().weight, 100 * torch.randn(40, 16)])
    model.resize_token_embeddings(320)
    model.get_input_embeddings().weight.data = model.lm_head.weight.data = rows.detach()
    folder = tmp_path / "padded"
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert answers(folder) == answers(place / "start")  # greedy: the likeliest tokens are those of the smaller model
    fields: dict[str, Any] = {
        "max_length": 128,
        "stages": 1,
        "steps_per_stage": 1,
        "max_new_tokens": 8,
        "samples_per_prompt": 1,
        "bf16": False,
    }
    data = (str(place / "rows.jsonl"),)
    done = run(IRFTConfig(model=str(folder), data=data, output=str(tmp_path / "run"), **fields))
    samples = read_rows(done.run_folder / "stages" / "00" / "samples.jsonl.gz")
    assert all(max(row["sample_ids"]) < 280 for row in samples)


# Runs as models ------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_a_model_and_brings_its_template(place: Path, tmp_path: Path) -> None:
    template = "### {prompt} ="
    fields: dict[str, Any] = {"template": template, "max_steps": 1, "eval_share": 0.0, "bf16": False, "max_length": 128}
    data = (str(place / "rows.jsonl"),)
    first = run(SFTConfig(model=str(place / "start"), data=data, output=str(tmp_path / "run"), **fields))
    assert resolve_model(str(tmp_path / "run")) == first.model_folder.resolve()
    asked = GenerationOptions(max_new_tokens=6, temperature=0)
    expected = answer(str(first.model_folder), [as_prompt("say 3")], replace(asked, template=template))
    assert answer(str(tmp_path / "run"), [as_prompt("say 3")], asked) == expected
    second = run(SFTConfig(model=str(tmp_path / "run"), data=data, output=str(tmp_path / "on"), **fields))
    assert second.run_folder.is_dir()
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(
        DemotuneError, match="is an unfinished run, it has no model yet; finish it with: demotune resume"
    ):
        answers(tmp_path / "run")
    with pytest.raises(DemotuneError, match="is an unfinished run"):
        sft(place, tmp_path / "run", tmp_path / "off")


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_a_model_that_memory_lacks_for_says_what_to_do(error: Exception, tmp_path: Path) -> None:
    assert is_lack_of_memory(error)
    message = r"not enough memory to load .*large.*--dtype bfloat16, or take a smaller"
    with pytest.raises(DemotuneError, match=message), reading(tmp_path / "large", "a model"):
        raise error


def test_scoring_that_memory_lacks_for_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    model = tiny_model()
    monkeypatch.setattr(model, "forward", fail)
    rows = [Completion((5, 6), Response((7,), finished=False))] * 3
    with pytest.raises(DemotuneError, match=r"score 3 responses together \(CUDA out of memory.*lower --batch-size"):
        completion_logps(model, rows, batch_size=4, bf16=False)


def test_masks_and_value_heads_that_other_programs_saved_are_no_fault(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(place / "start", folder)
    tensors = load_file(folder / "model.safetensors")
    more = ("model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias", "v_head.summary.weight")
    save_file(tensors | {name: torch.zeros(2) for name in more}, folder / "model.safetensors", {"format": "pt"})
    found = load(folder).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_quantized_model_is_not_trained_in_full(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(place / "start", folder)
    fields = json.loads((folder / "config.json").read_text())
    packed = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(fields | packed))
    with pytest.raises(DemotuneError, match=r"is quantized, so its weights cannot be trained.*--use-peft"):
        sft(place, folder, tmp_path / "run")
