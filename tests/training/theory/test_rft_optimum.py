"""With a known reward, each optimiser of RFT's policy phase reaches the exact KL-regularised optimum.

Responses have at most two tokens of a small vocabulary, so every one of them can be listed: the optimum of
E r - beta KL(pi || pi_0) is pi_0 exp(r / beta) / Z, and its mean reward is a number. A whole RFT run is made, with a
reward that is given and trained at a rate of nearly nothing.
"""

import json
from pathlib import Path

import pytest
import torch
from helpers.micro import END, align, letter_tokenizer, tiny_lm
from torch import Tensor

from demotune import RFTConfig, run
from demotune.models.logprobs import sequence_logps
from demotune.models.policy import load_policy, save_policy
from demotune.models.reward import load_reward_model, padding_id, reward_from_policy, save_reward_model
from demotune.models.reward_facts import RewardFacts
from demotune.models.reward_head import completion_rewards
from demotune.records import Completion, Response

LETTERS = 10  # of the vocabulary; with padding and end token the policy has twelve ids
BETA = 0.15
PROMPTS = ("ab", "ca", "hd")
TEMPLATE = "a{prompt}"
CPU = torch.device("cpu")


def responses() -> list[Response]:
    """Every response of at most two tokens: the end token at once, after one token, or cut off after two."""
    first = [token for token in range(LETTERS + 2) if token != END]
    return [
        Response((END,), True),
        *(Response((token, END), True) for token in first),
        *(Response((token, other), False) for token in first for other in first),
    ]


def completions(prompt: str) -> list[Completion]:
    tokenizer = letter_tokenizer()
    ids = tuple(tokenizer.encode(TEMPLATE.replace("{prompt}", prompt), add_special_tokens=False))
    return [Completion(ids, response) for response in responses()]


def log_probabilities(policy_folder: Path, prompt: str) -> Tensor:
    policy = load_policy(policy_folder, dtype="float32", attn_implementation="eager", device=CPU)
    listed = completions(prompt)
    batch = align([c.prompt_ids for c in listed], [c.response.ids for c in listed])
    with torch.no_grad():
        return sequence_logps(policy, batch).double()


def rewards(reward_folder: Path, prompt: str) -> Tensor:
    model = load_reward_model(reward_folder, dtype="float32", attn_implementation="eager", device=CPU)
    return torch.tensor(
        completion_rewards(model, completions(prompt), pad_id=0, bound=1.0, batch_size=64, bf16=False)
    ).double()


def make_world(folder: Path, seed: int) -> None:
    """A random policy, and a random reward in [0, 1] that differs a lot between responses."""
    tokenizer = letter_tokenizer(LETTERS + 2)
    policy = tiny_lm(seed=seed, vocabulary=LETTERS + 2)
    save_policy(policy, tokenizer, folder / "policy")
    reward = reward_from_policy(tiny_lm(seed=seed + 100, vocabulary=LETTERS + 2), padding_id(tokenizer, [END]))
    torch.manual_seed(seed)
    torch.nn.init.normal_(reward.score.weight, std=0.8)
    save_reward_model(reward, tokenizer, RewardFacts("logistic", 1.0, TEMPLATE), folder / "reward", "")
    rows = [{"prompt": prompt, "completion": "bc"} for prompt in PROMPTS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


OPTIMISERS = {
    "rloo": {},
    "group": {"learning_rate": 3e-3},
    "gae": {"policy_batches": 250},
    "gae with clipped minibatches": {"num_iterations": 2, "num_mini_batches": 2},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_mean_reward_reaches_the_closed_form(name: str, seed: int, tmp_path: Path) -> None:
    """Within 5% of the optimum's mean reward, and more than four fifths of the way there from the start."""
    make_world(tmp_path, seed)
    result = run(
        RFTConfig(
            model=str(tmp_path / "policy"),
            data=(str(tmp_path / "rows.jsonl"),),
            output=str(tmp_path / "run"),
            template=TEMPLATE,
            eval_share=0.0,
            max_length=16,
            max_new_tokens=2,
            samples_per_prompt=1,
            stages=1,
            reward_model=str(tmp_path / "reward"),
            reward_learning_rate=1e-12,
            reward_steps=1,
            reward_bound=1.0,
            finished_only=False,
            missing_eos_penalty=0.0,
            advantage=name.split(maxsplit=1)[0],  # type: ignore[arg-type]
            beta=BETA,
            prompts_per_batch=3,
            num_generations=32,
            per_device_train_batch_size=96,
            sample_batch_size=96,
            warmup_steps=0,
            stop_kl=0,
            stop_length_ratio=0,
            stop_reward_margin=0,
            save_steps=10_000,
            logging_steps=100,
            bf16=False,
            **{"learning_rate": 1e-2, "policy_batches": 120, **OPTIMISERS[name]},
        )
    )
    start, best, found = [], [], []
    for prompt in PROMPTS:
        reward = rewards(tmp_path / "run" / "reward", prompt)
        start_logps = log_probabilities(tmp_path / "policy", prompt)
        assert start_logps.logsumexp(0) == pytest.approx(0, abs=1e-5)  # these are all the responses there are
        start.append(start_logps.exp() @ reward)
        best.append((start_logps + reward / BETA).softmax(0) @ reward)
        found.append(log_probabilities(result.model_folder, prompt).exp() @ reward)
    start_reward, best_reward, found_reward = (float(torch.stack(each).mean()) for each in (start, best, found))
    assert best_reward > start_reward + 0.15, "the task is too easy to tell anything"
    assert found_reward == pytest.approx(best_reward, rel=0.05)
    assert found_reward > start_reward + 0.8 * (best_reward - start_reward)
