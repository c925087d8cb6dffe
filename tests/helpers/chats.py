"""For tests of rendering: small tokenizers of both kinds, conversations in short, chat templates of model families."""

import re
from pathlib import Path

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from demotune.records import Demonstration, Message

SENTENCES = [
    "What is 2+2? 4.",
    "### Instruction: Be brief. ### Response: Yes",
    "<|user|>\n[INST] Name a bird. [/INST] The swift, model assistant system user\n\n",
    "Rules. Q1 A1 Q2 A2",
    "{prompt} {0} Today Date: 26 Jul 2024 (2024-07-26)",
]


def tokenizer_of(
    chat_template: str | None,
    specials: tuple[str, ...] = (),
    *,
    eos: str | None = "</s>",
    bos: str | None = None,
    adds_bos: bool = False,
    metaspace: bool = False,
    listed: bool = True,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (GPT-2, Llama 3, Qwen), or a SentencePiece-like one (Llama 2, Mistral, Gemma).

    listed: whether `specials` are among the tokenizer's all_special_tokens, or special only as added tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = []
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    named = [token for token in (bos, eos, "<unk>" if metaspace else None) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=450, initial_alphabet=alphabet, special_tokens=[*named, *specials], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if adds_bos:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        unk_token="<unk>" if metaspace else None,
        extra_special_tokens=list(specials) if listed else [],
    )
    wrapped.chat_template = chat_template
    return wrapped


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def demo(*prompt: Message, response: str = "4.") -> Demonstration:
    return Demonstration(prompt, response, "rows.jsonl:1")


def ask(text: str = "What is 2+2?", response: str = "4.") -> Demonstration:
    return demo(user(text), response=response)


ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)

_MARKS = re.compile(
    r"""<[|｜][^|｜<>'"\n]+[|｜]>|<\|?(?:turn|channel|message)\|?>|<(?:start|end)_of_turn>|</?think>|\[/?[A-Z_]+\]|\[gMASK\]|<sop>"""
)


def with_plain_tags(name: str) -> PreTrainedTokenizerFast:
    """A family whose tags of thoughts are ordinary text for its tokenizer, as in most published models."""
    full = family(name)
    marks = tuple(mark for mark in full.extra_special_tokens if mark not in {"<think>", "</think>"})
    return tokenizer_of(full.chat_template, marks, bos=full.bos_token, eos=full.eos_token)


def family(
    name: str, *, bos: str | None = "<BOS>", eos: str = "<EOS>", metaspace: bool = False
) -> PreTrainedTokenizerFast:
    """A small tokenizer with a family's template, whose marks are special tokens.

    Templates are those that TRL ships, else those in templates/, written for these tests in the family's syntax.
    """
    own = Path(__file__).parent / "templates" / f"{name}.jinja"
    shipped = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    template = (own if own.exists() else shipped).read_text(encoding="utf-8")
    marks = sorted(set(_MARKS.findall(template)) - {bos, eos})
    return tokenizer_of(template, tuple(marks), bos=bos, eos=eos, metaspace=metaspace)
