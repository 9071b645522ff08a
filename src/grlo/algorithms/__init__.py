"""Algorithms by the name that a recipe gives them."""

ALGORITHMS: dict[str, str] = {
    "ppo": "grlo.algorithms.ppo:PPO",
    "grpo": "grlo.algorithms.grpo:GRPO",
    "rloo": "grlo.algorithms.rloo:RLOO",
    "reinforce_pp": "grlo.algorithms.reinforce_pp:ReinforcePlusPlus",
}
