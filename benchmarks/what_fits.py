"""Memory of one IRFT training step by arithmetic: sizes of models × ways of training × processes; no weights, no GPU.

    python benchmarks/what_fits.py

Prints the table of docs/scale.md. One pair a pass: a prompt of 512 tokens, two responses of 512; weights in bfloat16,
activations recomputed, AdamW. Every figure is an estimate (`demotune estimate`); none was measured on a GPU.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from demotune import IRFTConfig
from demotune.common.memory import GIB
from demotune.config.methods import AnyConfig
from demotune.estimation.machines import machine_named
from demotune.estimation.model_shape import read_shape
from demotune.estimation.time_and_memory import Costs
from demotune.models.policy import lora_config
from demotune.training.work import PhaseWork, Training
from demotune.training.work_plan import tokens_of_responses

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
MODELS = {
    "135M (SmolLM2)": {
        **LLAMA, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "1.4B (Pythia)": {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "vocab_size": 50304, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 16,
    },
    "7B (Mistral)": {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "13B (Llama 2)": {
        **LLAMA, "vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 40,
    },
}  # fmt: skip
"""Sizes as their published configs have them."""
CARDS = (24, 40, 80)
"""GB of a card; of which 95% may be used."""


def gib(config: AnyConfig, folder: Path, processes: int) -> float:
    """GiB of the training phase on each GPU."""
    adapter = lora_config(64, 16, ("all-linear",)) if config.use_peft else None
    pair = tokens_of_responses(512, [512, 512])
    work = PhaseWork(training=Training(tokens=pair, largest=pair, steps=1, microbatches=1))
    shape = read_shape(folder, adapter)
    costs = Costs(config, shape, machine_named("a100", "bfloat16"), processes, sharded=processes > 1)
    return costs.memory(work) / GIB


def main() -> None:
    full = IRFTConfig(
        model="m", data=("d",), output="o", bf16=True, dtype="bfloat16", activation_checkpointing=True,
        attn_implementation="sdpa",
    )  # fmt: skip
    ways: dict[str, AnyConfig] = {
        "full": full,
        "LoRA r=64": replace(full, use_peft=True),
        "QLoRA r=64": replace(full, use_peft=True, load_in_4bit=True),
    }
    print("| model | way | 1 GPU | fits on | 8 GPUs, each | fits on 8 of |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name, sizes in MODELS.items():
            (Path(place) / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
            for way, config in ways.items():
                cells = []
                for processes in (1, 8):
                    if processes > 1 and config.load_in_4bit:  # refused with FSDP
                        cells += ["–", "–"]
                        continue
                    need = gib(config, Path(place), processes)
                    fits = [f"{card} GB" for card in CARDS if need <= 0.95 * card * 1e9 / GIB]
                    cells += [f"{need:.1f} GiB", fits[0] if fits else "none of these"]
                print(f"| {name} | {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
