"""RFT (Algorithm 1 of arXiv 2405.17888): sample from pi_t, learn the reward, improve the policy on it; T times."""

from demotune.config.methods import RFTConfig
from demotune.training.methods.method import Method, Phase
from demotune.training.phases import check, contrast, policy, reward, sample, start

RFT = Method(
    config=RFTConfig,
    phases=(
        Phase("sample", sample.run, sample.work),
        Phase("start", start.run, start.work, first_stage_only=True),
        Phase("contrast", contrast.run, contrast.work, needed=contrast.needed),
        Phase("reward", reward.run, reward.work),
        Phase("policy", policy.run, policy.work),
        Phase("check", check.run, check.work),
    ),
)
