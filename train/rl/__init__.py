"""Reinforcement learning and preferences: log-probabilities, advantages, losses, rewards, rollouts."""

from narrowgauge.train.rl.advantages import generalized_advantages, group_advantages, whiten
from narrowgauge.train.rl.dpo import dpo_loss, preference_pairs, reward_filtered_nll
from narrowgauge.train.rl.grpo import grpo_loss
from narrowgauge.train.rl.logprobs import completion_batch, logits_logprobs, sequence_logprobs, token_logprobs
from narrowgauge.train.rl.method import GRPO, PPO, PolicyGradient, Preference
from narrowgauge.train.rl.ppo import ValueHead, add_value_head, logits_and_values, ppo_loss, token_rewards, value_loss
from narrowgauge.train.rl.reference import Reference
from narrowgauge.train.rl.rewards import (
    Completion,
    band_length,
    exact_match,
    matches_format,
    total_reward,
    triangular_length,
)
from narrowgauge.train.rl.source import RolloutSource
from narrowgauge.train.rl.surrogate import clipped_surrogate, k3, masked_mean

__all__ = [
    "GRPO",
    "PPO",
    "Completion",
    "PolicyGradient",
    "Preference",
    "Reference",
    "RolloutSource",
    "ValueHead",
    "add_value_head",
    "band_length",
    "clipped_surrogate",
    "completion_batch",
    "dpo_loss",
    "exact_match",
    "generalized_advantages",
    "group_advantages",
    "grpo_loss",
    "k3",
    "logits_and_values",
    "logits_logprobs",
    "masked_mean",
    "matches_format",
    "ppo_loss",
    "preference_pairs",
    "reward_filtered_nll",
    "sequence_logprobs",
    "token_logprobs",
    "token_rewards",
    "total_reward",
    "triangular_length",
    "value_loss",
    "whiten",
]
