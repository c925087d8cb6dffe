"""What the paper reports (arXiv 2405.17888): facts, as far as they are known to us. Nothing here is a result of
ours."""

from dataclasses import dataclass

SOURCE = "arXiv 2405.17888"
CODE = "the authors' released code"

LEADERBOARD_TASKS = {
    "arc_challenge": "ARC-Challenge", "truthfulqa_mc2": "TruthfulQA", "winogrande": "Winogrande", "gsm8k": "GSM8K",
    "hellaswag": "HellaSwag", "mmlu": "MMLU",
}  # fmt: skip
"""The harness's name -> the paper's, in the paper's order."""


@dataclass(frozen=True, slots=True)
class Average:
    """The mean over the six tasks of the Open LLM Leaderboard, in percent; one run each, no interval."""

    method: str
    stages: int | None
    """T; None for the model before."""
    percent: float


AVERAGES = (
    Average("start", None, 59.48),
    Average("spin", 1, 60.32),
    Average("irft", 5, 60.71),
    Average("irft", 8, 59.85),
    Average("irft", 10, 61.03),
    Average("irft", 16, 60.25),
)
"""zephyr-7b-sft-full on the 50k prompts of UltraChat200k that SPIN uses."""


def reported_average(method: str, stages: int | None) -> float | None:
    """The paper's average of a method at T stages; None where it is not known to us."""
    return next((one.percent for one in AVERAGES if (one.method, one.stages) == (method, stages)), None)


LEADERBOARD = (
    "Averages on the Open LLM Leaderboard, zephyr-7b-sft-full: 59.48 before, SPIN (T = 1) 60.32, IRFT 60.71 (T = "
    f"5), 59.85 (T = 8), 61.03 (T = 10), 60.25 (T = 16); one run each, no intervals ({SOURCE}). Over T they spread "
    "by 1.18, which is as much as the largest gain over SPIN and more.",
    f"Few-shots: ARC-Challenge 25, TruthfulQA (mc2) 0, Winogrande 5, GSM8K 5, HellaSwag 10, MMLU 5 ({SOURCE}). The "
    f"script scripts/run_eval.sh of {CODE} has MMLU with 1, all of ai2_arc and all of truthfulqa.",
    "T slices are disjoint, with two epochs after each generation, so T times K is constant. The scores of single "
    "tasks, the values of K, and which of Tables 3, 4 and 6 holds which line are not known to us: the division here "
    "is ours.",
)
FIGURE1 = (
    "After training on the chosen side alone, log π(chosen) − log π(rejected) on preference pairs is positive for "
    f"RFT and IRFT and negative for SFT ({SOURCE}, Figure 1). The numbers behind the figure are not known to us; it "
    "shows one run.",
)
FIGURE2 = (
    f"The win rate of RFT over SFT by a reward model reaches about 0.8 ({SOURCE}, Figure 2). The curve's other "
    "numbers are not known to us.",
    f"That reward model, beaver-7b-v3.0-reward, also selected the 10,000 training rows of Anthropic-HH ({SOURCE}): "
    "it is no impartial judge of models trained on them.",
)
TABLE2 = (
    "Relative to SFT: Algorithm 1 (RFT) needs twice SFT's time and the time of generating; Algorithm 2 (IRFT, SPIN) "
    f"needs SFT's time and that of generating ({SOURCE}). The memory and the seconds are not known to us.",
)
TABLE5 = (
    f"Sample answers of SFT and of the paper's method side by side ({SOURCE}, Table 5). Their texts, and by which "
    "rule they were chosen, are not known to us.",
)
