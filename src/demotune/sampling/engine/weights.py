"""A policy's weights in a folder that servers can read, and the proof that a server computes with them."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import cast

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_folder, read_json, write_json
from demotune.common.profiling import timed
from demotune.models.policy import Policy, save_weights
from demotune.models.reference_logps import token_logps
from demotune.records import Completion
from demotune.sampling.engine.completions import completion_request
from demotune.sampling.engine.server import EngineServer
from demotune.sampling.options import SamplingOptions

ROWS, TOKENS = 4, 16
"""Responses that prove a server's weights, and their length."""
EXACT, ROUNDED = 1e-3, 0.1
"""How far log-probabilities may be apart on average, in nats a token: in float32, where two implementations differ by
1e-5 (measured, docs/engines.md), and in bfloat16, where they differ by hundredths. Another model is tenths away."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What servers must hold."""

    key: str
    """Of the content."""
    folder: str
    base: str | None
    """For an adapter: the folder of its base model."""
    rows: int
    """Ids that the model can draw, with or without a token."""

    def name_at(self, server: EngineServer) -> str:
        """The model to ask for."""
        return _adapter_name(self.key) if self.base else server.model

    def excluded(self, options: SamplingOptions) -> list[int]:
        """Ids that the model could draw and must not."""
        if options.vocabulary is None:
            return []
        return [token for token in range(self.rows) if token not in options.vocabulary]


@timed("files")
def publish_weights(policy: Policy, root: Path) -> Weights:
    """Write the weights that the policy has now into a folder of `root`, named by their content."""
    key = _content_key(policy)
    folder = (root / key[:16]).resolve()
    if not folder.is_dir():
        with publish_folder(folder) as unfinished:
            _save_untied(policy, unfinished)
    rows = cast(torch.nn.Embedding, policy.get_input_embeddings()).weight.shape[0]
    base = policy.active_peft_config.base_model_name_or_path if isinstance(policy, PeftModel) else None
    return Weights(key, str(folder), base, rows)


def _save_untied(policy: Policy, folder: Path) -> None:
    """Save weights; a head that is the embedding is written as a head of its own.

    On a CPU vLLM computes with a packed copy of the head, which new weights reach under its own name alone.
    """
    head, embedding = policy.get_output_embeddings(), policy.get_input_embeddings()
    if isinstance(policy, PeftModel) or head is None or head.weight is not embedding.weight:
        save_weights(policy, folder)
        return
    state = policy.state_dict()
    name = next(name for name, module in policy.named_modules() if module is head)
    state[f"{name}.weight"] = state[f"{name}.weight"].clone()
    policy.save_pretrained(str(folder), state_dict=state)
    config = folder / "config.json"
    write_json(config, read_json(config) | {"tie_word_embeddings": False})


def remove_others(root: Path, keep: Weights) -> None:
    """Drop the folders of earlier weights."""
    for folder in root.iterdir():
        if folder.is_dir() and folder.name != Path(keep.folder).name:
            shutil.rmtree(folder, ignore_errors=True)


def hand_over(server: EngineServer, weights: Weights) -> bool:
    """Give a server the weights, again where it has them; False where it takes none.

    Raises PassingError or DemotuneError.
    """
    if weights.base is None:
        able = server.reload(weights.folder)
        server.base = weights.folder if able else server.base
        return able
    if server.base not in (None, weights.base) and server.reload(weights.base):
        server.base = weights.base
    server.load_adapter(weights.name_at(server), weights.folder)
    if server.holds not in (None, weights.key):
        server.unload_adapter(_adapter_name(server.holds))
    return True


def _adapter_name(key: str) -> str:
    return f"demotune-{key[:12]}"


def difference(
    server: EngineServer, weights: Weights, policy: Policy, prompts: Sequence[Sequence[int]], bf16: bool
) -> float:
    """How far the server's log-probabilities of its own responses are from the policy's, in nats a token on average.

    Raises PassingError or DemotuneError where the server gives none.
    """
    options = SamplingOptions(max_new_tokens=TOKENS, max_length=server.longest, stop_ids=frozenset(), bf16=bf16)
    completions, theirs = [], []
    for row, prompt in enumerate(prompts[:ROWS]):
        body = completion_request(
            weights.name_at(server), prompt, seed=0, stream=row, options=options, excluded=[], logps=True
        )
        answer = server.complete(body, options)
        if answer.logps is None:
            raise DemotuneError(
                f"the server at {server.address} returns no log-probabilities; start it with vLLM's defaults"
            )
        completions.append(Completion(tuple(prompt), answer.response))
        theirs.append(answer.logps)
    ours = token_logps(policy, completions, bf16=bf16)
    return fmean(abs(a - b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True))


def tolerance(policy: Policy, bf16: bool) -> float:
    """How far apart two implementations may be, in nats a token."""
    exact = not bf16 and next(policy.parameters()).dtype == torch.float32
    return EXACT if exact else ROUNDED


def _content_key(policy: Policy) -> str:
    """sha256 of the numbers: of an adapter's own where there is one."""
    state = get_peft_model_state_dict(policy) if isinstance(policy, PeftModel) else policy.state_dict()
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
