"""Rewards: one small pure function per file, in TRL's signature, and a registry by name."""

from medvlm_r1.rewards.registry import REGISTRY, Reward, resolve_reward

__all__ = ["REGISTRY", "Reward", "resolve_reward"]
