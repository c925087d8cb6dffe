"""Model folders with one fault each: tiny policies, adapters and rewards, and what was done to them."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from demotune.models.policy import load_policy
from demotune.models.reward import reward_from_policy, save_reward_model
from demotune.models.reward_facts import RewardFacts
from helpers.tiny import tiny_model, tiny_tokenizer

Fault = Callable[[Path], object]
TARGETS = ["q_proj", "v_proj"]


def save_adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter on the model in `base`, without a tokenizer."""
    model = load_policy(base, dtype="float32", attn_implementation="eager", device=torch.device("cpu"))
    get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM")).save_pretrained(folder)
    return folder


def save_reward(folder: Path) -> Path:
    """A sequence classifier with one label."""
    facts = RewardFacts("logistic", None, "{prompt}")
    save_reward_model(reward_from_policy(tiny_model(), 0), tiny_tokenizer(), facts, folder, "")
    return folder


def config(**values: Any) -> Fault:
    return changed("config.json", **values)


def adapter_config(**values: Any) -> Fault:
    return changed("adapter_config.json", **values)


def changed(name: str, **values: Any) -> Fault:
    """Values of a JSON file; the key goes where the value is ..."""

    def act(folder: Path) -> None:
        found = {**json.loads((folder / name).read_text()), **values}
        (folder / name).write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))

    return act


def written(name: str, text: str | bytes) -> Fault:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def cut(name: str, share: float = 0.5) -> Fault:
    """Only the first part of a file, as after a full disk or a broken copy."""

    def act(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return act


def gone(*patterns: str) -> Fault:
    def act(folder: Path) -> None:
        for file in [file for pattern in patterns for file in folder.glob(pattern)]:
            file.unlink()

    return act


def weights(change: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors") -> Fault:
    """Tensors of a file changed in place."""

    def act(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return act


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def more_tokens(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<more>", "<and more>"])
    tokenizer.save_pretrained(folder)


def pickled(folder: Path) -> None:
    """The same weights as a pickle, and no safetensors."""
    (weights_file,) = folder.glob("*.safetensors")
    torch.save(load_file(weights_file), folder / f"{weights_file.stem.replace('model', 'pytorch_model')}.bin")
    weights_file.unlink()


NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
INDEX, SHARD = "model.safetensors.index.json", "model-00001-of-00002.safetensors"
TORN_HEADER = struct.pack("<Q", 40) + b'{"model.norm.weight": {"dtype": "F32", "'


def sharded(index: dict[str, Any]) -> Fault:
    """All weights but one in a first shard, under an index."""

    def act(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors.pop(NORM)
        save_file(tensors, folder / SHARD, metadata={"format": "pt"})
        (folder / "model.safetensors").unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}} | index))

    return act


POLICIES: dict[str, tuple[Fault, str]] = {
    "a weight is missing": (weights(lambda t: t.pop(NORM)), r"missing: model\.norm\.weight"),
    "a layer's weight is missing": (weights(lambda t: t.pop(QUERY)), r"missing: model\.layers\.0\.self_attn\.q_proj"),
    "a weight has another name": (weights(renamed(NORM, "model.norm.wight")), r"not asked for: model\.norm\.wight"),
    "a weight too many": (weights(lambda t: t.update(more=torch.zeros(3))), "not asked for: more"),
    "a weight is shorter": (weights(lambda t: t.update({NORM: torch.ones(8)})), r"is \[8\], asked for \[16\]"),
    "no weight at all": (weights(lambda t: t.clear()), "2 layers, and there are 0 tensors"),
    "a layer more": (config(num_hidden_layers=3), r"missing: model\.layers\.2\..* and 6 more"),
    "a layer less": (config(num_hidden_layers=1), r"not asked for: model\.layers\.1\..* and 6 more"),
    "a billion layers": (config(num_hidden_layers=10**9), "1000000000 layers, and there are 20 tensors"),
    "a layer less than none": (config(num_hidden_layers=-1), "not asked for"),
    "another width": (config(hidden_size=32, head_dim=8), "of another shape"),
    "a huge width": (config(hidden_size=2**40), "of another shape|cannot read"),
    "a huge inner width": (config(intermediate_size=10**12), "of another shape"),
    "another vocabulary": (config(vocab_size=300), r"is \[280, 16\], asked for \[300, 16\]"),
    "a huge vocabulary": (config(vocab_size=10**12), r"is \[280, 16\], asked for \[1000000000000, 16\]"),
    "a vocabulary below none": (config(vocab_size=-3), "the embedding .* has -3 rows|negative dimension"),
    "a head of its own": (config(tie_word_embeddings=False), r"missing: lm_head\.weight"),
    "weights cut off": (cut("model.safetensors"), r"cannot read .*model\.safetensors as safetensors"),
    "weights cut off by one byte": (cut("model.safetensors", 0.9999), r"cannot read .*model\.safetensors"),
    "weights cut to nothing": (cut("model.safetensors", 0), r"cannot read .*model\.safetensors as safetensors"),
    "weights of four bytes": (written("model.safetensors", b"torn"), "cannot read .*model.safetensors"),
    "a header that never ends": (written("model.safetensors", b"\xff" * 64), "cannot read .*model.safetensors"),
    "a torn header": (written("model.safetensors", TORN_HEADER), "cannot read .*model.safetensors"),
    "no weights": (gone("*.safetensors"), "holds no safetensors file; convert it once"),
    "a pickle": (pickled, r"only pytorch_model\.bin: pickled weights can run code and are never read"),
    "an index without a map": (sharded({}), "cannot read .* as a causal language model: KeyError"),
    "a shard is missing": (sharded({"weight_map": {NORM: "model-00002-of-00002.safetensors"}}), "00002-of-00002"),
    "a shard without a weight of the index": (sharded({"weight_map": {NORM: SHARD}}), "missing|cannot read"),
    "a torn index": (written(INDEX, '{"weight_map": {'), r"index\.json as JSON"),
    "no config": (gone("config.json"), "holds no config.json"),
    "a torn config": (cut("config.json"), r"config\.json as JSON"),
    "an empty config": (written("config.json", ""), r"config\.json as JSON"),
    "a config that is a list": (written("config.json", "[1]"), "it holds a list, not an object"),
    "a config that is no text": (written("config.json", b"\xff\xfe\x00{"), r"config\.json as JSON"),
    "an architecture that nobody knows": (config(model_type="later"), "`later`.*give a model of an architecture"),
    "no architecture": (config(model_type=..., architectures=...), "give a model of an architecture"),
    "code of its own": (config(model_type="own", auto_map={"AutoConfig": "own.Config"}), "code in a model folder is"),
    "a width that is no number": (config(hidden_size=float("nan")), "cannot read .* as a model config.*hidden_size"),
    "a depth in words": (config(num_hidden_layers="two"), "cannot read .* as a model config.*num_hidden_layers"),
    "no heads": (config(num_attention_heads=0), "cannot read .* as a model config: ZeroDivisionError"),
    "heads that do not divide the width": (config(num_attention_heads=3), "multiple of the number of attention heads"),
    "a type that torch has not": (config(dtype="float7"), "cannot read .*float7"),
    "a quantisation in a word": (config(quantization_config="own"), "cannot read"),
    "positions below none": (config(max_position_embeddings=-5), "max_position_embeddings -5|cannot read"),
    "positions in words": (config(max_position_embeddings="many"), "max_position_embeddings"),
    "no tokenizer": (gone("tokenizer*", "*.jinja"), r"as a tokenizer.*tokenizer\.save_pretrained"),
    "a torn tokenizer": (cut("tokenizer.json"), "cannot read .* as a tokenizer"),
    "a tokenizer that is a list": (written("tokenizer.json", "[]"), "cannot read .* as a tokenizer"),
    "a torn tokenizer config": (cut("tokenizer_config.json"), r"tokenizer_config\.json as JSON"),
    "more tokens than rows": (more_tokens, r"has 282 tokens and the embedding of .* has 280 rows.*embeddings\(282\)"),
    "a torn generation config": (cut("generation_config.json"), r"generation_config\.json as JSON"),
    "an end token in words": (changed("generation_config.json", eos_token_id="end"), "eos_token_id 'end'"),
}

LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ADAPTER = "adapter_model.safetensors"


def half_of_an_embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.weight"] = torch.zeros(290, 16)


def two_embeddings(tensors: dict[str, torch.Tensor]) -> None:
    half_of_an_embedding(tensors)
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(291, 16)


ADAPTERS: dict[str, tuple[Fault, str]] = {
    "its base is gone": (adapter_config(base_model_name_or_path="/no/where"), "was trained on /no/where, and there: "),
    "its base is not named": (adapter_config(base_model_name_or_path=None), "names no base model"),
    "its base is a number": (adapter_config(base_model_name_or_path=7), "names no base model"),
    "it is its own base": (
        lambda folder: adapter_config(base_model_name_or_path=str(folder))(folder),
        "which is an adapter too; merge",
    ),
    "a torn config": (cut("adapter_config.json"), r"adapter_config\.json as JSON"),
    "a config that is a list": (written("adapter_config.json", "[]"), "it holds a list, not an object"),
    "a kind that peft has not": (adapter_config(peft_type="OWN"), "cannot read .* as an adapter of LlamaForCausalLM"),
    "a rank in words": (adapter_config(r="four"), "cannot read .* as an adapter"),
    "another rank": (adapter_config(r=8), "cannot read .* as an adapter.*size mismatch"),
    "a huge rank": (adapter_config(r=10**9), "rank 1000000000, and no tensor has more than"),
    "a rank below none": (adapter_config(r=-4), "cannot read .* as an adapter"),
    "modules that the base has not": (adapter_config(target_modules=["own"]), "cannot read .* as an adapter.*own"),
    "a module more": (adapter_config(target_modules=[*TARGETS, "k_proj"]), r"missing: .*k_proj\.lora_A.* and 1 more"),
    "a module less": (adapter_config(target_modules=["q_proj"]), r"not asked for: .*v_proj\.lora_A.* and 1 more"),
    "a weight is missing": (weights(lambda t: t.pop(LORA), ADAPTER), r"missing: .*q_proj\.lora_A\.weight"),
    "a weight has another name": (weights(renamed(LORA, "own"), ADAPTER), "not asked for: own"),
    "weights cut off": (cut(ADAPTER), f"cannot read .*{ADAPTER} as safetensors"),
    "no weights": (gone("*.safetensors"), f"holds no {ADAPTER}"),
    "a pickle": (pickled, r"only .*\.bin: pickled weights can run code and are never read"),
    "half of an embedding": (weights(half_of_an_embedding, ADAPTER), "has 290 token rows and its base .* has 280"),
    "two embeddings": (weights(two_embeddings, ADAPTER), "holds embeddings of 290 and of 291 rows"),
}

REWARDS: dict[str, tuple[Fault, str]] = {
    "no head": (weights(lambda t: t.pop("score.weight")), r"missing: score\.weight"),
    "a head of two numbers": (config(id2label={"0": "a", "1": "b"}), "has 2 labels; a reward has one number"),
    "a layer more": (config(num_hidden_layers=3), r"missing: model\.layers\.2"),
    "weights cut off": (cut("model.safetensors"), r"cannot read .*model\.safetensors"),
    "a head too many": (weights(lambda t: t.update({"lm_head.weight": torch.ones(2)})), "not asked for: lm_head"),
    "torn facts": (cut("reward.json"), r"reward\.json as JSON"),
    "facts of another kind": (changed("reward.json", own=1), r"reward\.json as the facts of a reward.*own"),
    "a fact is missing": (changed("reward.json", bound=...), r"reward\.json as the facts of a reward.*bound"),
    "a bound in words": (changed("reward.json", bound="two"), r"reward\.json as the facts of a reward"),
    "a bound below 0": (changed("reward.json", bound=-1.0), r"bound must be a number > 0, got -1\.0"),
    "a template that is a number": (changed("reward.json", template=3), "template: expected str, found 3"),
    "an architecture that nobody knows": (config(model_type="later"), "`later`"),
    "more tokens than rows": (more_tokens, "has 282 tokens and the embedding of .* has 280 rows"),
}


def faulty(whole: Path, folder: Path, fault: Fault) -> Path:
    """A copy of a whole folder with one fault."""
    shutil.copytree(whole, folder)
    fault(folder)
    return folder
