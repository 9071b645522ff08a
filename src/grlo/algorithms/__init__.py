"""Algorithms by the name that a recipe gives them."""

ALGORITHMS: dict[str, str] = {
    "ppo": "grlo.algorithms.ppo:PPO",
    "grpo": "grlo.algorithms.grpo:GRPO",
    "dapo": "grlo.algorithms.dapo:DAPO",
    "gspo": "grlo.algorithms.gspo:GSPO",
    "cispo": "grlo.algorithms.cispo:CISPO",
    "rloo": "grlo.algorithms.rloo:RLOO",
    "reinforce_pp": "grlo.algorithms.reinforce_pp:ReinforcePlusPlus",
}
