"""Training of a policy: reinforcement learning from answers alone (GRPO), or imitation of the answer letter (SFT)."""
