"""A template of the user's own, with {prompt} in it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.data.rendering.marks import Marks
from demotune.data.rendering.tokens import encode
from demotune.data.rendering.writer import ANSWER, OWN_TEMPLATE, PROBE, REASONING_LEFT_OUT, RenderError, Written
from demotune.records import Context, Demonstration, Message


class PlainTemplate:
    """A template with {prompt} in it, closed by the EOS token."""

    opens_thought = False
    marks = Marks()

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        if template.count("{prompt}") != 1:
            raise DemotuneError(f"template must contain {{prompt}} once, got {template!r}; {OWN_TEMPLATE}")
        if "\\n" in template and "\n" not in template:
            raise DemotuneError(
                f"template holds a backslash and an n where a line break is meant, got {template!r}; in bash write "
                "--template $'...\\n...', in YAML put it in double quotes"
            )
        if tokenizer.eos_token_id is None:
            raise DemotuneError(
                "the tokenizer has no EOS token, so a response could never end; set eos_token in the model's "
                'tokenizer_config.json, for example to "</s>" or "<|endoftext|>", whichever its vocabulary holds'
            )
        self._template = template
        self._eos = str(tokenizer.eos_token)
        self.end_id = tokenizer.eos_token_id
        self.description = f"template: {template!r}; a response ends with {self._eos}"
        self.probe = template.replace("{prompt}", PROBE) + ANSWER + self._eos
        bos_id: int | None = tokenizer.bos_token_id
        adds_bos = bos_id is not None and tokenizer.encode(PROBE)[:1] == [bos_id]
        has_bos = encode(tokenizer, self.probe)[:1] == (bos_id,)
        self.prefix_ids: tuple[int, ...] = (bos_id,) if bos_id is not None and adds_bos and not has_bos else ()

    def ask(self, prompt: Sequence[Message], context: Context) -> Written:
        for name, given in (("tools", context.tools), ("documents", context.documents)):
            if given:
                fix = f"remove the row or its {name}, or use the model's chat template"
                raise RenderError(f"{name} not written", f"a template with {{prompt}} has no place for them; {fix}")
        turns: list[str] = []
        last_role = ""
        for message in prompt:
            role, content = message["role"], message["content"]
            if role == "user":
                turns.append(self._template.replace("{prompt}", content))
            elif role == "system" and not last_role:
                turns.append(content)
            elif role == "assistant" and last_role == "user":
                turns[-1] += content
            else:
                raise RenderError("roles out of order", f"a {role} turn after {last_role or 'nothing'}")
            last_role = role
        ignored = any(message.get("reasoning_content") for message in prompt)
        return Written("\n\n".join(turns), remarks=(REASONING_LEFT_OUT,) if ignored else ())

    def prompts(self, prompt: Sequence[Message], context: Context) -> tuple[str, ...]:
        return (self.ask(prompt, context).prompt,)

    def write(self, demonstration: Demonstration) -> Written:
        asked = self.ask(demonstration.prompt, demonstration.context)
        remarks = (REASONING_LEFT_OUT,) if demonstration.reasoning else asked.remarks
        return Written(asked.prompt, demonstration.response + self._eos, remarks)
