"""Hostile models: changed weights, sizes, configs, tokenizers, templates. Refused, or trained alike twice."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from campaign.children import demotune
from campaign.runs import SMALL, prepare
from campaign.trials import Trial

COMMAND = ["sft", *SMALL, "--max-steps=1", "--data={data}", "--model=model", "--output={output}"]
WEIGHTS = "model.safetensors"
TEMPLATES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10000000000 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ raise_exception('no') }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% if",
    "",
    "{{ messages | length / 0 }}",
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content * 100000 }}<|im_end|>{% endfor %}",
    "\x1b[2J{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
)


def model_trials(place: Path, count: int, seed: int) -> Iterator[Trial]:
    """`count` folders, the kinds of harm in turn."""
    prepare(place)
    kinds = list(HARMS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield Trial("hostile model", f"{kind} {number}", lambda k=kind, n=number: _tried(place, k, n, seed))


def _tried(place: Path, kind: str, number: int, seed: int) -> str | None:
    scene = place / f"model-{kind.replace(' ', '-')}-{number}"
    shutil.copytree(place / "start", scene / "model")
    HARMS[kind](scene / "model", random.Random(f"{seed}/{kind}/{number}"))
    outputs = []
    for output in ("first", "second"):
        arguments = [part.format(data=place / "rows.jsonl", output=output) for part in COMMAND]
        ended = demotune(arguments, scene)
        if fault := ended.fault():
            return fault
        if ended.code != 0:
            break
        outputs.append((scene / output / "model" / WEIGHTS).read_bytes())
    if "\x1b[2J" in ended.output:
        return "a control character on the screen"
    if ended.code != 0 and "error: " not in ended.output:
        return f"refused without a message: {ended.last_lines()}"
    if ended.code == 0 and kind in MUST_BE_REFUSED:
        return "trained, exit 0"
    if len(set(outputs)) > 1:
        return "the same command gave two different models"
    shutil.rmtree(scene)
    return None


def _weights(change: Callable[[dict[str, torch.Tensor], random.Random], None]) -> Callable[[Path, random.Random], None]:
    def harm(folder: Path, rng: random.Random) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors, rng)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return harm


def _layer_tensor(tensors: dict[str, torch.Tensor], rng: random.Random) -> str:
    return rng.choice(sorted(name for name in tensors if "layers" in name))


def _remove(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    del tensors[_layer_tensor(tensors, rng)]


def _rename(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    name = _layer_tensor(tensors, rng)
    tensors[name.replace("layers", "blocks")] = tensors.pop(name)


def _reshape(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    name = _layer_tensor(tensors, rng)
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def _config(**fields: Any) -> Callable[[Path, random.Random], None]:
    return lambda folder, rng: _edit(folder / "config.json", lambda config: config.update(fields))


def _odd_config(folder: Path, rng: random.Random) -> None:
    def change(config: dict[str, Any]) -> None:
        config[rng.choice(sorted(config))] = rng.choice((None, "", "x", -1, 0, 10**9, 1e308, [], {}, [1], True, "cuda"))

    _edit(folder / "config.json", change)


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads(file.read_text(encoding="utf-8"))
    change(fields)
    file.write_text(json.dumps(fields), encoding="utf-8")


def _damaged_bytes(name: str, reach: int | None = None) -> Callable[[Path, random.Random], None]:
    """A byte changed, within the first `reach` bytes; or the file cut."""

    def harm(folder: Path, rng: random.Random) -> None:
        data = bytearray((folder / name).read_bytes())
        place = rng.randrange(min(len(data), reach or len(data)))
        if rng.random() < 0.5:
            data[place] ^= 1 << rng.randrange(8)
        else:
            del data[place:]
        (folder / name).write_bytes(data)

    return harm


def _template(folder: Path, rng: random.Random) -> None:
    (folder / "chat_template.jinja").write_text(rng.choice(TEMPLATES), encoding="utf-8")


def _more_tokens(folder: Path, rng: random.Random) -> None:
    def add(tokenizer: dict[str, Any]) -> None:
        known = {"special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
        start = max(token["id"] for token in tokenizer["added_tokens"]) + 1000
        tokenizer["added_tokens"].append({"id": start, "content": "say", **known})

    _edit(folder / "tokenizer.json", add)


def _pickled(folder: Path, rng: random.Random) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


HARMS: dict[str, Callable[[Path, random.Random], None]] = {
    "weight missing": _weights(_remove),
    "weight renamed": _weights(_rename),
    "weight too many": _weights(lambda tensors, rng: tensors.update({"model.layers.7.extra.weight": torch.zeros(3)})),
    "weight of another shape": _weights(_reshape),
    "more layers": _config(num_hidden_layers=3),
    "fewer layers": _config(num_hidden_layers=1),
    "untied head": _config(tie_word_embeddings=False),
    "larger vocabulary": _config(vocab_size=4000),
    "unknown architecture": _config(model_type="grandma", architectures=["GrandmaForCausalLM"]),
    "own code": _config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
    "pickled weights": _pickled,
    "more tokens": _more_tokens,
    "odd config": _odd_config,
    "torn weights": _damaged_bytes(WEIGHTS, reach=3000),
    "torn config": _damaged_bytes("config.json"),
    "torn tokenizer": _damaged_bytes("tokenizer.json"),
    "torn tokenizer config": _damaged_bytes("tokenizer_config.json"),
    "torn generation config": _damaged_bytes("generation_config.json"),
    "hostile template": _template,
}
MUST_BE_REFUSED = {
    "weight missing", "weight renamed", "weight too many", "weight of another shape", "more layers", "fewer layers",
    "untied head", "larger vocabulary", "unknown architecture", "pickled weights", "more tokens",
}  # fmt: skip
