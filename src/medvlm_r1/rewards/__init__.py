"""Rewards: one small pure function per file, with TRL's reward signature, and a registry by name."""

from medvlm_r1.rewards.registry import REGISTRY, Reward, any_asks, asks, resolve_reward

__all__ = ["REGISTRY", "Reward", "any_asks", "asks", "resolve_reward"]
