"""Training of a policy: reinforcement learning with rewards (GRPO), or fine-tuning on the answer letter (SFT)."""
